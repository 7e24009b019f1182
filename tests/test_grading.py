"""What the policy grader-v2 takes for right and for wrong, class by class: the worked examples of docs/grading.md."""

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import needs_data

from benchmarks import load_benchmark
from benchmarks.attacks import EXPLAINED, STRATEGIES, attacks
from benchmarks.golds import unreadable
from benchmarks.grader import Grader
from benchmarks.judge import judge
from benchmarks.notation import RULES, Rule, convert_notation, without_layout
from benchmarks.quantities import canonical_unit, read_clock, read_compound, read_quantity
from benchmarks.shapes import read_shape
from benchmarks.writings import WRITINGS, write_answer


CORRECT = [
    ("18", "She makes 9 * 2 = <<9*2=18>>18 dollars.\n#### 18"),
    ("1234", "1,234"),
    ("12000023", r"The final answer is 12,\!000,\!023. I hope it is correct."),
    (r"\$36", r"\boxed{36}"),
    ("36", r"\boxed{\$36.00}"),
    ("18", "The answer is 18 dollars per day."),
    ("5", r"\boxed{5\text{ cm}^2}"),
    (r"28\%", r"\boxed{28}"),
    (r"90^\circ", r"\boxed{90}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    (r"\frac{14}{3}", r"\boxed{4\frac{2}{3}}"),
    (r"\sqrt{50}", "The answer is 5√2."),
    ("x^2-4", "$(x-2)(x+2)$"),
    (r"\left(3, \frac{\pi}{2}\right)", r"\boxed{(3,\pi/2)}"),
    ("1,-2", r"\boxed{-2} and \boxed{1}"),
    (r"x \in [-2,7]", r"\boxed{[-2,7]}"),
    ("5", r"\boxed{x = 5}"),
    (r"\text{Evelyn}", "The final answer is Evelyn. I hope it is correct."),
    (r"\text{(C)}", r"\boxed{C}"),
    (r"\text{4:30 p.m.}", r"\boxed{4:30\text{ PM}}"),
    (r"1-\frac{1}{e}", r"\boxed{1-\frac{1}{\mathrm{e}}}"),
    ("3.83e35", r"\boxed{3.83 \times 10^{35}}"),
    ("2.7778e-6", r"The answer is $2.7778 \cdot 10^{-6}$."),
    ("1e-3", r"\boxed{0.001}"),
    ("np.arcsin(10/13)", r"\boxed{\arcsin\left(\frac{10}{13}\right)}"),
    ("-3./2", r"\boxed{-1.5}"),
    ("1000.5", "1000,5"),
    (r"\frac{1}{2}", r"The answer is $\frac{1}{2}.$"),
    ("5", r"We put the answer in \boxed{}: \boxed{5}"),
    ("5", r"\boxed{5}, that is \boxed{x = 5}"),
    ("6", "so $5x=30$ and $x=6$."),
    ("5", "The answer is 5!"),
    ("5", r"\boxed{5\!}"),
    ("5", "The answer is $5$!"),
    ("1.5", r"\boxed{1 1/2}"),
    ("1.5", "The answer is 1 1/2"),
    ("20", r"\boxed{20.0\%}"),
    ("10", r"\boxed{10 cm^2}"),
    ("10", r"\boxed{10\,\mathrm{cm}^2}"),
    ("10", r"\boxed{10 \mathrm{~m/s}^2}"),
    ("a+b+c", r"\boxed{c+b+a}"),
    (r"(1,\infty)", r"\boxed{(1,+\infty)}"),
    (r"\infty", r"\boxed{+\infty}"),
    (r"v_{\max}=5", r"\boxed{5}"),
    (r"\frac{1}{3}", r"\boxed{0.\overline{3}}"),
    ("5000000", r"\boxed{5\text{ million}}"),
    ("5", "<|im_start|>assistant\nThe answer is 5"),
    ("5", "<|im_start|>assistant\n\\boxed{5}<|im_end|>"),
    ("2^{1/4}", "2**(1/4)"),
    (r"-1+\sqrt{3}", "-1 + sqrt(3)"),
    (r"\text{4:30 p.m.}", "The answer is 4:30 PM"),
    (r"\text{4:30 p.m.}", "4:30pm"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\boxed{\begin{bmatrix} -\frac13 \\ 0.6666667 \end{bmatrix}}"),
    (r"\begin{pmatrix} \sqrt{2} \\ 1 \end{pmatrix}", r"\boxed{\begin{pmatrix} √2 \\ 1 \end{pmatrix}}"),
    (r"\begin{pmatrix} \sqrt{2} \\ 1 \end{pmatrix}", r"$\begin{pmatrix} \sqrt2 \\ 1 \end{pmatrix}$"),
    ("(3,4]", r"\boxed{3 < x \le 4}"),
    (r"\frac{dM}{dt}=2M", r"\boxed{2M}"),
    ("5", "So $$x=5.$$"),
    ("(2,3)", r"\boxed{(x,y)=(2,3)}"),
    ("142", r"\boxed{m+n=142}"),
    ("18", "She makes $18."),
    ("18", "Thus she makes 18 dollars every day at the farmers' market."),
    ("70000", "#### $70,000"),
    ("3", r"\boxed{3\text{ hours}}"),
    ("2", r"Therefore $x = 2$ or so: \boxed{2}"),
    (r"\frac{\pi}{6}", r"\boxed{π/6}"),
    ("x^2+1", r"\boxed{1+x²}"),
    ("12", r"\boxed{12}$"),
    ("0.5", r"\boxed{50\%}"),
    ("1,-2", r"\boxed{x=1,x=-2}"),
    ("1,-2", "$x = 1$ or $x=-2$"),
    ("52_8", r"\boxed{52_{8}}"),
    ("52_8", r"\boxed{52_{\text{eight}}}"),
    ("2", "#### 2 hours"),
    ("5", r"$x = \boxed{5}$ dollars!"),
    (r"3\sqrt{13}", "3*sqrt(13)"),
    (r"\frac{9}{4}\pi", "9pi/4"),
    ("10", "The final answer is **10**."),
    ("10", "**Final Answer:** 10 apples"),
    ("10", "Answer: $10$."),
    ("-3", "The answer is -3."),
    ("0.75", "3/4"),
    (r"\frac{3}{4}", "Answer: 0.75"),
    ("1800000", "1.8 million"),
    ("B", r"\boxed{\text{B}}"),
    (r"\text{(B)}", "The answer is (B)."),
    (r"\{1,2\}", r"\boxed{1,2}"),
    (r"75^\circ", r"\boxed{75 \text{ degrees}}"),
    (r"15\mbox{ cm}^2", r"\boxed{15 \text{ square centimeters}}"),
    (r"864 \mbox{ inches}^2", r"\boxed{864}"),
    ("y = 2x + 3", r"\boxed{2x+3}"),
    ("y = 2x + 3", r"\boxed{2x - y + 3 = 0}"),
    ("x=5", r"\boxed{5}"),
    (r"1 \pm \sqrt{19}", r"\boxed{1+\sqrt{19}, 1-\sqrt{19}}"),
    ("-2,-2", r"\boxed{-2,-2}"),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}} \boxed{0.5}"),
    (r"\frac{1}{2}", r"$\frac{1}{2},$"),
    ("5", r"So \(5.\)"),
    ("5", r"\[ 5. \]"),
    ("(1,2)", "The answer is: $(1,2).$"),
    (r"\frac{1}{2}", r"#### \frac{1}{2}."),
    ("7", r"Here \boxed{} holds the answer. \boxed{7}"),
    ("7", r"\boxed{\text{Answer}} = \boxed{7}"),
    ("7", r"\boxed{7}\text{, i.e. }\boxed{\frac{14}{2}}"),
    ("7", r"\boxed{7}. I put it in \boxed{}."),
    ("7", r"\boxed{7} \boxed{\text{ apples}}"),
    ("7", r"\boxed{x}=\boxed{7}"),
    ("7", r"\boxed{7}, or equivalently \boxed{7.0}"),
    ("7", r"\boxed{n=7} \Rightarrow \boxed{7}"),
    ("7", r"The final answer goes in \boxed{\text{...}}, so \boxed{7}"),
    ("7", r"\boxed{\text{final answer}}: \boxed{7}"),
    ("7", r"\boxed{7} \text{ where } \boxed{\phantom{0}}"),
    ("6", r"$2x+1=13 \Rightarrow x=6$"),
    ("6", "so $x+y=10$, $x-y=2$, and $x=6$."),
    ("6", "we get $5x=30$, so $x=6$"),
    ("6", "$x = 30/5 = 6$"),
    ("6", r"$$5x = 30, \quad x = 6$$"),
    ("6", r"\boxed{5x=30, x=6}"),
    ("6", r"\boxed{6 = x}"),
    ("6", r"$\therefore x = 6$"),
    ("6", r"\boxed{2\cdot 3=6}"),
    ("6", r"\boxed{x=6 \text{ cm}}"),
    ("6", r"\boxed{5x=30 \text{ and } x=6}"),
    ("6", r"\boxed{5x = 30 \to x = 6}"),
    ("12", r"\boxed{3+4+5=12}"),
    ("2x+3", r"\boxed{f(x) = 2(x+1)+1 = 2x+3}"),
    ("5", "The answer is 5 !"),
    ("5", r"\boxed{5}!"),
    ("5", "#### 5!"),
    ("5", "**5!**"),
    ("5", "It is 5!"),
    ("120", r"\boxed{5!}"),
    ("-1.5", r"\boxed{-1 1/2}"),
    (r"\frac{11}{4}", "2 3/4"),
    (r"\frac{3}{2}", r"\boxed{1\ 1/2}"),
    (r"\frac{3}{2}", r"\boxed{1 \tfrac12}"),
    ("20", r"\boxed{20\ \%}"),
    (r"20\%", r"\boxed{20.0}"),
    (r"20\%", r"\boxed{\frac{1}{5}}"),
    ("20", "20.00%"),
    ("10", r"\boxed{10\,cm^2}"),
    ("10", r"\boxed{10\ \text{cm}^{2}}"),
    ("10", r"\boxed{10 \mathrm{cm^2}}"),
    ("10", r"\boxed{10 \text{ sq. ft.}}"),
    ("10", r"\boxed{10 m/s}"),
    ("10", r"\boxed{10 \frac{\text{m}}{\text{s}}}"),
    ("10", r"\boxed{10\mathrm{~km/h}}"),
    ("3e8", r"\boxed{3.0 \times 10^8 \mathrm{~m/s}}"),
    ("10", r"\boxed{10 cm²}"),
    ("10", r"\boxed{10 \text{ cm} \cdot \text{s}^{-1}}"),
    ("10", r"\boxed{10\, \mathrm{kg \cdot m/s^2}}"),
    ("10", r"\boxed{10^\circ C}"),
    (r"\sqrt{2}", r"\boxed{\sqrt{2} \text{ cm}}"),
    (r"\sqrt{2}", r"\boxed{\sqrt{2} cm}"),
    (r"5\sqrt{3}", r"\boxed{5\sqrt{3}\mathrm{~cm}^2}"),
    (r"12\pi", r"\boxed{12\pi \text{ cm}^2}"),
    (r"12\pi", r"\boxed{12\pi cm^2}"),
    (r"12\pi", r"\boxed{12\pi \text{ square inches}}"),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}\,\mathrm{m}}"),
    ("5", "$5 per hour"),
    (r"864 \mbox{ inches}^2", r"\boxed{864 \text{ in}^2}"),
    ("a-b", r"\boxed{-b+a}"),
    ("ab+c", r"\boxed{c+ba}"),
    ("xyz", r"\boxed{zyx}"),
    ("a + b + c", "The answer is $b + c + a$."),
    (r"(-\infty,\infty)", r"\boxed{(-\infty,+\infty)}"),
    (r"[0,\infty)", r"\boxed{\left[0,+\infty\right)}"),
    (r"(1,\infty)", r"\boxed{x\in(1,+\infty)}"),
    (r"(1,\infty)", "(1, +oo)"),
    (r"(-\infty,2)\cup(3,\infty)", r"\boxed{x<2 \text{ or } x>3}"),
    (r"m_{\max }=n^{2}-n-1", r"\boxed{n^2-n-1}"),
    (r"v_{\max}=5", r"\boxed{v_{max}=5}"),
    (r"v_{\max}=5", r"\boxed{5 \text{ m/s}}"),
    (r"$\angle B E A_{1}=90$,$\angle A E B_{1}=90", r"\boxed{90^\circ, 90^\circ}"),
    (r"P(A)=\frac12", r"\boxed{0.5}"),
    ("E[X]=3", r"\boxed{3}"),
    ("S_n=n^2", r"\boxed{n^2}"),
    ("f'(0)=1", r"\boxed{1}"),
    ("f^{-1}(3)=2", r"\boxed{2}"),
    (r"\overline{AB}=5", r"\boxed{5}"),
    ("3", r"\boxed{\mathbb{E}[X]=3}"),
    ("12", r"\boxed{\text{Area}=12}"),
    ("12", "Area = 12"),
    ("12", r"\boxed{A_{\triangle ABC} = 12}"),
    ("12", r"\boxed{[ABC] = 12}"),
    ("2", r"\boxed{f^{-1}(3)=2}"),
    ("3", r"\boxed{\log_2 8 = 3}"),
    (r"\frac{1}{6}", r"\boxed{0.1\overline{6}}"),
    (r"\frac{1}{7}", r"\boxed{0.\overline{142857}}"),
    (r"\frac{1}{3}", r"\boxed{0.\dot{3}}"),
    (r"\frac{1}{3}", r"\boxed{.\overline{3}}"),
    (r"\frac{1}{3}", r"\boxed{0.(3)}"),
    (r"\frac{1}{3}", r"\boxed{0.3333\ldots}"),
    (r"\frac{1}{3}", r"\boxed{0.333...}"),
    (r"\frac{4}{3}", r"\boxed{1.\bar{3}}"),
    (r"\frac{1}{3}", r"\boxed{33.\overline{3}\%}"),
    (r"0.\overline{3}", r"\boxed{\frac{1}{3}}"),
    ("5000000", "5 million"),
    ("5000000", r"\boxed{5\,\text{million dollars}}"),
    ("2500000000", "The answer is $2.5$ billion"),
    ("2500000000", "The answer is $2.5 billion."),
    ("500", "5 hundred"),
    (r"5 \text{ million}", r"\boxed{5000000}"),
    (r"5 \text{ million}", r"\boxed{5{,}000{,}000}"),
    ("5", "<|start_header_id|>assistant<|end_header_id|>\n\\boxed{5}<|eot_id|>"),
    ("5", "<|assistant|>\nThe answer is 5."),
    ("5", "[/INST] The answer is 5.</s>"),
    ("5", "<|im_start|>assistant\nThe answer is 5.<|im_end|>"),
    ("5", "<|im_end|>\n<|im_start|>assistant\nThe answer is 5.<|im_end|>"),
    ("5", "<bos><start_of_turn>model\nThe answer is 5.<end_of_turn>"),
    ("5", "<|endoftext|>The answer is 5."),
    (r"\frac{1+\sqrt{5}}{2}", "(1+sqrt(5))/2"),
    (r"\frac{\sqrt{2}}{2}", "sqrt(2)/2"),
    (r"\frac{3\pi}{4}", "3*pi/4"),
    ("x^2+1", "x**2+1"),
    ("e^2", "e**2"),
    ("e^2", "exp(2)"),
    (r"\sqrt[3]{5}", "5^(1/3)"),
    (r"2\sqrt{3}i", "2*sqrt(3)*i"),
    (r"\arcsin(10/13)", "arcsin(10/13)"),
    (r"\frac{-1+\sqrt{3}i}{2}", "(-1+sqrt(3)*i)/2"),
    (r"(3,\frac{\pi}{2})", "(3, pi/2)"),
    (r"\{1,2\}", "{1, 2}"),
    (r"5\sqrt{2}", "5 sqrt 2"),
    (r"5\sqrt{2}", "The answer is 5sqrt(2)."),
    (r"-1+\sqrt{3}", "The answer is -1 + sqrt(3)."),
    ("2^{1/4}", "The answer is 2**(1/4)."),
    ("2^{1/4}", "So it is 2**(1/4)."),
    (r"\frac{3}{4}", "So the probability is 3/4."),
    ("x^2-4", "So the result is (x-2)(x+2)."),
    (r"\text{4:30 p.m.}", "The answer is 4:30 p.m."),
    (r"\text{4:30 p.m.}", r"\boxed{4{:}30\text{ p.m.}}"),
    (r"\text{4:30 p.m.}", "16:30"),
    (r"\text{4:30 p.m.}", "So they arrive at 4:30 p.m."),
    ("4:30", "04:30"),
    (
        r"\begin{pmatrix} \sqrt{2} & 1\\ 0 & \frac12\end{pmatrix}",
        r"\boxed{\begin{bmatrix} \sqrt2 & 1\\ 0 & 0.5\end{bmatrix}}",
    ),
    (
        r"\begin{pmatrix} \sqrt{2} & 1\\ 0 & \frac12\end{pmatrix}",
        r"\boxed{\left(\begin{array}{cc} √2 & 1\\[2pt] 0 & 1/2\\ \end{array}\right)}",
    ),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\[4pt] 2 \end{pmatrix}}"),
    (r"\begin{pmatrix} 1/\sqrt{2} \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} \frac{\sqrt2}{2} \\ 2 \end{pmatrix}}"),
    (r"\begin{pmatrix} \sqrt{3}/2 & -1/2 \end{pmatrix}", r"$\begin{pmatrix} \sqrt3/2 & -1/2 \end{pmatrix}$"),
    ("18", "She makes $18 every day."),
    ("18", "Janet makes 18 dollars."),
    ("540", "He runs 540 meters a week"),
    ("5", r"The answer is \boxed{5} apples."),
    ("(a+5)(b+2)", r"\boxed{(b+2)(a+5)}"),
    ("6+9i", r"\boxed{9i+6}"),
    (r"\frac{9}{4}", "2.25"),
    ("3.14159", r"\boxed{\approx 3.14159}"),
    ("10", "The answer is approximately 10."),
    ("5", "The value is exactly 5."),
    ("2,4", "$x = 2$ and $x = 4$"),
    ("1,3,5", "The solutions are 1, 3 and 5."),
    ("1,3,5", "The solutions are 1, 3, and 5."),
    ("x=5", r"\boxed{x = 5}"),
    ("8n^2 + 4n + 1", r"\boxed{4n(2n+1)+1}"),
]
"""Gold answer and a response that is right."""

WRONG = [
    ("18", "#### 19"),
    ("1000000", r"\boxed{1000001}"),
    ("12345678901234567890", r"\boxed{12345678901234567891}"),
    ("1e-9", r"\boxed{2 \times 10^{-9}}"),
    ("10^{-9}", r"\boxed{\frac{1}{10^{12}}}"),
    ("3.83e35", r"\boxed{3.83}"),
    ("32349", r"\boxed{32, 349}"),
    (r"1-\frac{1}{e}", r"\boxed{1+\frac{1}{\mathrm{e}}}"),
    (r"\text{Evelyn}", "The final answer is Carla."),
    ("x", r"\boxed{-x}"),
    ("105", r"\boxed{10.5\text{ cm}}"),
    ("5000000", r"\boxed{5}"),
    (r"\{1,2\}", r"\boxed{1}"),
    ("[0,1)", r"\boxed{(0,1)}"),
    ("2", r"\hbar \omega(v+1 / 2)-\frac{E_{0}^{2} e^{2}}{2 m \omega^{2}}"),
    ("11/2", r"\boxed{1 1/2}"),
    ("12", r"\boxed{1 2}"),
    ("2s", r"\boxed{2}"),
    ("a+b+c", r"\boxed{a + b + d}"),
    ("x + y + z = 0", r"\boxed{0}"),
    (r"f(x)=a x+b$, where $b$ is an arbitrary integer, and $a$ is with $\mho(a)=0$", r"\boxed{0}"),
    ("x=x", r"\boxed{0=1}"),
    ("0=2", r"\boxed{0=1}"),
    ("(0.0000001, 2)", r"\boxed{(0.0000004, 2)}"),
    ("x=0.0000001", r"\boxed{x=0.0000004}"),
    ("0.0000001,2", r"\boxed{0.0000004,2}"),
    (r"\begin{pmatrix} 0.0000001 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 0.0000004 \\ 2 \end{pmatrix}}"),
    (
        "99",
        r"\boxed{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99}",
    ),
    ("52_8", r"\boxed{52_9}"),
    ("5", r"\boxed{5\text{ million}}"),
    ("-2,-2", r"\boxed{-2}"),
    ("5", "The answer is at least 5"),
    ("5", "The answer is probably not 5"),
    ("5", r"\boxed{\text{at least }5}"),
    ("5", "It is not 5."),
    ("2 h 30", r"\boxed{2 h 40}"),
    (r"2\text{ h }30\text{ min}", r"\boxed{2\text{ h }40\text{ min}}"),
    ("1,5", r"\boxed{1.5}"),
    ("1,5", "1.5"),
    ("5", r"\boxed{5 \text{ or } 6}"),
    ("5", r"\boxed{[4,6]}"),
    ("5", r"\boxed{x=x}"),
    ("5", r"\boxed{0=5}"),
    ("5", r"\boxed{5, 6}"),
    ("5", r"\boxed{5}\boxed{6}"),
    ("5", r"\boxed{4<x<6}"),
    ("5", r"\boxed{5+\epsilon}"),
    ("5", r"\boxed{5x}"),
    ("30", r"\boxed{5x=30}"),
    ("5", r"\boxed{\pm 5}"),
    ("0.3333", r"\boxed{0.33}"),
    ("5", r"\boxed{5.1}"),
    ("5", r"\boxed{500\%}"),
    (r"5.4 \text{ cents}", r"\boxed{5.4\text{ dollars}}"),
    (r"\text{4:30 p.m.}", "4:30 a.m."),
    (r"\frac{dM}{dt}=2M", r"\boxed{0}"),
    (r"m \frac{d v}{d t}+b v=f", r"\boxed{b v=f}"),
    ("MR=SRMC", r"\boxed{SRMC}"),
    ("3", r"\boxed{5!}"),
    ("5", r"\boxed{5!}"),
    ("5", "#### 5 or 6"),
    ("5", "The answer is 5 or 6"),
    ("5", "The answer is between 4 and 5"),
    ("2", "The answer is 2 apples and 3 pears"),
    ("3", "The answer is 2 apples and 3 pears"),
    ("2k", r"\boxed{2}"),
    ("6m", r"\boxed{6}"),
    ("5", "5 or 6"),
    ("5", r"\boxed{\geq 5}"),
    ("5", r"\boxed{x\geq 5}"),
    ("5", r"\boxed{\le 5}"),
    ("5", r"$x\ne 5$"),
    ("5", r"\boxed{x \neq 5}"),
    ("16", "not 16"),
    ("2", r"\boxed{1.9999}"),
    ("1+i", r"\boxed{1-i}"),
    ("(1,2)", r"\boxed{[1,2]}"),
    ("x+1", r"\boxed{x+1=0}"),
    ("x", r"\boxed{|x|}"),
    ("5", r"\boxed{\text{the answer to the question}}"),
    ("5", r"\boxed{{5}_{6}}"),
    ("12", r"\boxed{12_5}"),
    (r"\frac{11}{2}", r"\boxed{1 1/2}"),
    ("12", r"\boxed{1\ 2}"),
    ("12", "1 2"),
    ("112", r"\boxed{1 12}"),
    ("2s", r"\boxed{2 \text{ s}}"),
    ("2k+2", r"\boxed{4}"),
    ("3n", "3"),
    ("n", r"\boxed{1}"),
    (r"\frac{37}{4} m", r"\boxed{\frac{37}{4}}"),
    ("7.6 Z", r"\boxed{7.6}"),
    (r"2.2 \tau", r"\boxed{2.2}"),
    ("a+b+c", r"\boxed{a+b}"),
    ("a+b+c", r"\boxed{a+b+m}"),
    ("a+b+c", r"\boxed{a+b+\text{c}^2}"),
    ("5x - 7y + 11z + 4 = 0", r"\boxed{0}"),
    (r"y^{\prime}+r y-r x(t)=0", r"\boxed{0}"),
    ("2x+4y-3=0", r"\boxed{y=0}"),
    ("x^2+y^2=1", r"\boxed{1}"),
    ("x+1=x+2", r"\boxed{x=x+5}"),
    ("x^2=-1", r"\boxed{x^2=-2}"),
    (r"\{0.0000001,2\}", r"\boxed{\{0.0000004,2\}}"),
    ("y=0.0000001x", r"\boxed{y=0.0000004x}"),
    ("[0.0000001,2]", r"\boxed{[0.0000004,2]}"),
    ("0.0000001x", r"\boxed{0.0000004x}"),
    (
        "100",
        r"\boxed{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 100}",
    ),
    ("2516_8", r"\boxed{2516_9}"),
    ("2516_8", r"\boxed{2516_{10}}"),
    ("4210_{5}", r"\boxed{4210_{6}}"),
    ("42", r"\boxed{42_8}"),
    ("5", r"\boxed{5\text{ thousand}}"),
    ("5", "5 billion"),
    ("2", "2 dozen"),
    ("-2,-2", r"\boxed{x=-2}"),
    ("1,1,2", r"\boxed{1,2}"),
    ("1,1,2", r"\boxed{1,2,2}"),
    ("5", "at least 5"),
    ("5", "The answer is at most 5."),
    ("5", r"\boxed{\text{probably not } 5}"),
    ("5", "The answer is more than 5."),
    ("5", "The answer is not equal to 5."),
    ("5", "It is definitely not 5."),
    ("5", "The answer cannot be 5."),
    ("5", "I doubt that it is 5."),
    ("5", "The answer is something other than 5."),
    ("5", "Maybe 5, maybe 6."),
    ("5", "The answer is 5 or more."),
    ("5", r"\boxed{5 \text{ or more}}"),
    ("5", r"\boxed{5+}"),
    ("5", r"\boxed{>5}"),
    ("5", r"\boxed{\text{anything but } 5}"),
    ("5", r"\boxed{5?}"),
    ("5", "The answer is 5 or 6 or 7."),
    ("5", "The answer lies in [5,6]."),
    ("2 h 30", "2 h"),
    ("5 ft 6 in", "5 ft"),
    ("5 ft 6 in", "5 ft 7 in"),
    ("2", "2 h 30"),
    ("2,3", "2.3"),
    ("1,2", "The answer is 1.2."),
    ("11,13", r"\boxed{11.13}"),
    ("5,15", r"\boxed{5.15}"),
    ("(1,2)", r"\boxed{1.2}"),
    ("5", r"\boxed{5 = 6}"),
    ("5", r"\boxed{x = 5 = 6}"),
    ("3", r"\boxed{\{1,2,3\}}"),
    ("(1,5)", r"\boxed{[1,5)}"),
    ("1-i", r"\boxed{1+i}"),
    ("MR=SRMC", r"\boxed{SRAC=LRAC}"),
    ("f(x)=x+1", r"\boxed{f(x)=x}"),
    ("x>5", r"\boxed{5}"),
    (r"x \geq 2", r"\boxed{2}"),
    (r"k \geqslant 2", r"\boxed{2}"),
    (r"\pm 2", r"\boxed{2}"),
    (r"\text{even}", r"\boxed{\text{not even}}"),
    (r"\text{even}", "The answer is odd or even."),
    (r"\text{Evelyn}", r"\boxed{\text{not Evelyn}}"),
    (r"\text{(C)}", r"\boxed{A, B, C, D, E}"),
    (r"\text{(C)}", r"\boxed{\text{C or D}}"),
    (r"\text{east}", r"\boxed{\text{north-east}}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 & 2 \end{pmatrix}}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 3 \end{pmatrix}}"),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2} x}"),
    (r"90^\circ", r"\boxed{90 \text{ radians}}"),
    (r"\$36", r"\boxed{36 \text{ cents}}"),
    (r"15\mbox{ cm}^2", r"\boxed{15\text{ cm}}"),
    (r"15\mbox{ cm}^2", r"\boxed{15\text{ m}^2}"),
]
"""Gold answer and a response that is wrong."""


@pytest.mark.parametrize(("gold", "response"), CORRECT)
def test_right_answers_are_correct(gold: str, response: str) -> None:
    assert judge(gold, response) == "correct"


@pytest.mark.parametrize(("gold", "response"), WRONG)
def test_wrong_answers_earn_nothing(gold: str, response: str) -> None:
    assert judge(gold, response) in ("wrong", "no_answer")


def test_a_long_list_is_not_graded_by_its_last_number() -> None:
    assert judge("99", rf"\boxed{{{', '.join(map(str, range(100)))}}}") == "wrong"


@pytest.mark.parametrize("response", ["", "   \n", r"so \boxed{}", "I do not know how to go on with this"])
def test_a_response_without_answer_is_its_own_verdict(response: str) -> None:
    assert judge("5", response) == "no_answer"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_of_notation_does_what_its_example_says_and_the_others_leave_that_alone(rule: Rule) -> None:
    before, after = rule.example
    assert rule.pattern.sub(rule.replacement, before) == after
    assert without_layout(convert_notation(before)) == without_layout(convert_notation(after))


@given(st.text(alphabet="0123456789.,-+=/()[]{}\\\\ $%^_xyabc!", max_size=30))
def test_notation_converts_once_and_for_all(text: str) -> None:
    once = convert_notation(text)
    assert len(once) < 40 * (len(text) + 1)
    read_shape(once)  # whatever it is, it has a structure


def test_quantities_are_exact() -> None:
    for text, value in {
        "0.1": "1/10",
        r"-1\frac{1}{2}": "-3/2",
        r"1.\overline{6}": "5/3",
        r"3 \times 10^{-2}": "3/100",
    }.items():
        quantity = read_quantity(text)
        assert quantity is not None
        assert str(quantity.value) == value
    assert read_quantity("1 2") is None
    assert [str(part.value) for part in read_compound("2 h 30 min") or ()] == ["2", "30"]
    assert read_clock("4:30 p.m.") == read_clock("16:30") != read_clock("4:30 a.m.")
    assert canonical_unit("square centimetres") == canonical_unit("cm^2") == "cm^2"


@pytest.mark.parametrize(
    "gold",
    ["$f(x)=a x+b$, where $b$ is an arbitrary integer", "t(0,4]", r"\frac{1}{2", "the sum of $a$ and $b$"],
)
def test_a_gold_answer_that_is_prose_or_no_formula_is_equal_to_itself_alone(gold: str) -> None:
    assert unreadable(gold)
    assert judge(gold, "0") != "correct"
    assert judge(gold, "1") != "correct"


@pytest.mark.parametrize(
    "gold", ["$69$,$84$", "864 square inches", r"(-\infty, 0] \cup \{1\}", "3, 5, and 7", r"\text{not even}"]
)
def test_lists_units_intervals_and_words_can_be_read(gold: str) -> None:
    assert not unreadable(gold)


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_integers_are_equal_only_to_themselves(gold: int, other: int) -> None:
    assert judge(str(gold), f"Thus \\boxed{{{gold:,}}}.") == "correct"
    assert judge(str(gold), f"#### {other}") == ("correct" if gold == other else "wrong")


@given(st.decimals("0.1", "9.9", places=3), st.integers(-30, 30))
def test_all_notations_of_a_number_are_equal(mantissa: Decimal, exponent: int) -> None:
    notations = [
        f"{mantissa}e{exponent}",
        f"{mantissa} \\times 10^{{{exponent}}}",
        f"{Decimal(f'{mantissa}e{exponent}'):f}",
    ]
    for gold in notations:
        for answer in notations:
            assert judge(gold, f"\\boxed{{{answer}}}") == "correct"
        assert judge(gold, f"\\boxed{{{mantissa}1e{exponent - 1}}}") == "wrong"


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True), st.randoms())
def test_a_list_is_right_in_every_order_and_wrong_without_an_item(items: list[int], rng: object) -> None:
    gold = ", ".join(map(str, items))
    turned = ", ".join(map(str, reversed(items)))
    assert judge(gold, rf"\boxed{{{turned}}}") == "correct"
    assert judge(gold, rf"\boxed{{{', '.join(map(str, items[1:]))}}}") == "wrong"
    assert judge(gold, rf"\boxed{{{turned}, 51}}") == "wrong"


@needs_data
def test_no_strategy_wins_a_gold_answer_without_knowing_it() -> None:
    assert len(STRATEGIES) >= 40
    problems = [
        problem
        for name in ("math500", "olympiadbench", "minerva", "aime25")
        for problem in load_benchmark(name).problems()[7::90]
    ]
    tried = [(p.answer, name, response) for p in problems for name, response in attacks(p.answer, p.prompt)]
    with Grader(workers=2, seconds=1.0) as grader:
        verdicts = grader.grade([(gold, response) for gold, _, response in tried])
    won = {name for (_, name, _), verdict in zip(tried, verdicts, strict=True) if verdict == "correct"}
    assert won <= set(EXPLAINED)


@needs_data
@pytest.mark.parametrize("name", ["math500", "gsm8k", "minerva"])
def test_gold_answers_in_twenty_ways_of_writing_are_right(name: str) -> None:
    golds = {problem.answer for problem in load_benchmark(name).problems()[::3]}
    verdicts = [judge(gold, write_answer(gold, writing)) for gold in sorted(golds) for writing in WRITINGS]
    assert len(WRITINGS) == 20
    assert verdicts.count("correct") >= 0.995 * len(verdicts)


@needs_data
def test_benchmarks_mark_the_gold_answers_that_are_graded_as_text() -> None:
    marked = {problem.answer for problem in load_benchmark("olympiadbench").problems() if problem.gold_as_text}
    assert any("arbitrary integer" in answer for answer in marked)
    assert len(marked) < 10
    assert not any(problem.gold_as_text for problem in load_benchmark("gsm8k").problems())


@needs_data
@pytest.mark.parametrize(
    ("file", "count"), [("math500.jsonl", 500), ("minerva_math.jsonl", 272), ("gsm8k_test.jsonl", 1319)]
)
def test_the_reference_solutions_are_correct(file: str, count: int) -> None:
    lines = (Path(os.environ["GVPO_BENCH_DATA"]) / "benchmarks" / file).read_text().rstrip("\n").split("\n")
    verdicts = [judge(row["answer"], row["solution"]) for row in map(json.loads, lines)]
    assert verdicts == ["correct"] * count
