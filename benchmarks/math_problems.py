r"""The mathematics benchmarks: where their problems come from, how many there are, and how that is verified.

One example of each, as question ‖ gold answer:

    gsm8k          Janet's ducks lay 16 eggs per day. She eats three for breakfast … How much in dollars … ‖ 18
    math500        Convert the point $(0,3)$ in rectangular coordinates to polar … ‖ \left( 3, \frac{\pi}{2} \right)
    aime24         Every morning Aya goes for a $9$-kilometer-long walk … the number of minutes the walk takes … ‖ 204
    aime25         Find the sum of all integer bases $b>9$ for which $17_{b}$ is a divisor of $97_{b}$. ‖ 70
    amc23          Cities $A$ and $B$ are $45$ miles apart. … How many miles from City $A$ … ‖ 27
    amc83          $\frac{m}{n}$ is the Irreducible fraction value of … what is the value of $m+n$? ‖ 142
    minerva        Each of the two Magellan telescopes has a diameter of $6.5 \mathrm{~m}$. … ‖ 1.6
    olympiadbench  Xenia and Sergey play the following game. … How many moves does Sergey need … ‖ 2
    svamp          Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack. How … ‖ 51
    gsm8k-train    Natalia sold clips to 48 of her friends in April … ‖ 72
    mawps-train    Bryan took a look at his books as well. If Bryan has 56 books in each of his 9 … ‖ 504
    asdiv-a-train  7 red apples and 2 green apples are in the basket. how many apples are in the basket? ‖ 9
    math-train     Let \[f(x) = \left\{ … Find $a+b$ if the piecewise function is continuous … ‖ 0

`mawps-asdiv-a-train` is the two together, which the authors of SVAMP train on before they test on it. SVAMP was made by
varying problems of ASDiv-A, and MultiArith, SingleEq and AddSub are parts of MAWPS.

Papers say "AMC" for two sets: `amc23` is the 40 problems of 2023, `amc83` those of 2022 and 2023 together.

The problems are read from the folder in the environment variable GVPO_BENCH_DATA (`benchmarks/*.jsonl` and
`train/*.jsonl[.gz]` in it), or, where it is not set, from the hub through `datasets` at a pinned revision; those of
MAWPS and ASDiv-A from the folder alone. A local file must have the expected number of rows and SHA-256. A revision
fixes the hub's content; its number of rows is verified.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.answers import boxed_expressions
from benchmarks.benchmark import DataError, Problem
from benchmarks.golds import unreadable
from benchmarks.judge import normal_answer

DATA_VARIABLE = "GVPO_BENCH_DATA"

Row = Mapping[str, Any]


def _plain_answer(row: Row) -> str:
    return str(row["answer"])


def _after_hashes(row: Row) -> str:
    """GSM8K: the reference solution ends with `#### 1,234`."""
    return str(row["answer"]).rpartition("####")[2].strip().replace(",", "")


def _integer_answer(row: Row) -> str:
    """AIME and AMC: an integer, which some sources write as 27.0 or 025."""
    return str(int(float(row["answer"])))


def _number_answer(row: Row) -> str:
    """SVAMP: a number, which the hub's copy writes as 51.0."""
    value = float(row["Answer"])
    return str(int(value)) if value.is_integer() else str(value)


def _last_boxed(row: Row) -> str:
    boxes = boxed_expressions(row["solution"])
    return boxes[-1].content if boxes else ""


def _only_final_answer(row: Row) -> str:
    """OlympiadBench: a list of one element."""
    (answer,) = row["final_answer"]
    return str(answer)


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A dataset of the hub and how its rows become problems."""

    path: str
    revision: str
    split: str
    rows: int
    """Number of rows over all configurations."""
    configurations: tuple[str | None, ...] = (None,)
    prompt_fields: tuple[str, ...] = ("problem",)
    """What the question consists of, joined by a space."""
    answer: Callable[[Row], str] = _plain_answer
    solution_field: str | None = None
    """Where a row has a worked solution that ends in the answer; local files call it `solution`."""

    def read(self) -> Iterator[Row]:
        """The hub's rows, each with its `problem`, its `answer` and, where it has one, its `solution` as text."""
        import datasets

        for configuration in self.configurations:
            dataset = datasets.load_dataset(self.path, configuration, split=self.split, revision=self.revision)
            for row in dataset:
                solution = {"solution": row[self.solution_field]} if self.solution_field else {}
                prompt = " ".join(str(row[field]).strip() for field in self.prompt_fields)
                yield row | {"problem": prompt, "answer": self.answer(row)} | solution


@dataclass(frozen=True, kw_only=True)
class MathBenchmark:
    """A set of problems in the local data folder and on the hub. See `benchmarks.benchmark.Benchmark`."""

    name: str
    file: str
    """Path inside the data folder."""
    sha256: str
    """Of the file's bytes."""
    rows: int
    """Of the file."""
    hub: HubSource | None
    """None where the hub has no copy of these very problems."""
    part: tuple[int, int] | None = None
    """The rows of the file that are meant, from the first to before the second; None for all."""
    id_fields: tuple[str, ...] = ()
    """Where a row has an official id: in the file and on the hub. Without one the id is the row's index."""
    empty_golds: int = 0
    """Number of rows whose gold answer is empty in the source. They cannot be graded and are left out."""
    grading: Literal["math"] = "math"

    def problems(self) -> list[Problem]:
        """See `Benchmark.problems`. An id that is an index holds for one source: file and hub need not have the same
        order, so results from the two are not to be paired problem by problem.

        A file is read and verified at every call, and parsed once.
        """
        folder = os.environ.get(DATA_VARIABLE)
        if not folder:
            return list(self._from_hub(self._hub_source()))
        path = Path(folder) / self.file
        return list(self._from_file(str(path), self._verified(path)))

    def answer_of(self, response: str) -> str:
        """See `benchmarks.benchmark.Benchmark.answer_of` and `benchmarks.judge.normal_answer`."""
        return normal_answer(response)

    @functools.cache  # noqa: B019 - the benchmarks of the table live as long as the process
    def _from_file(self, source: str, content: bytes) -> tuple[Problem, ...]:
        lines = (gzip.decompress(content) if self.file.endswith(".gz") else content).decode().rstrip("\n").split("\n")
        if len(lines) != self.rows:
            raise DataError(f"{self.name}: {source} has {len(lines)} rows, expected {self.rows}")
        return self._problems([json.loads(line) for line in lines[slice(*self.part or (None,))]], source)

    def _hub_source(self) -> HubSource:
        if self.hub is None:
            raise DataError(
                f"{self.name}: its problems are on no hub: set {DATA_VARIABLE} to a folder that holds {self.file}"
            )
        return self.hub

    @functools.cache  # noqa: B019
    def _from_hub(self, hub: HubSource) -> tuple[Problem, ...]:
        source = f"{hub.path} at revision {hub.revision} on the hub"
        try:
            rows = list(hub.read())
        except Exception as error:  # datasets raises its own, the hub's client's and the HTTP library's
            raise DataError(
                f"{self.name}: neither a local file ({DATA_VARIABLE} is not set) nor {source} is to be had. "
                f"Set {DATA_VARIABLE} to a folder that holds {self.file}, or give access to the hub. "
                f"The hub's client said: {type(error).__name__}: {error}"
            ) from error
        if len(rows) != hub.rows:
            raise DataError(f"{self.name}: {source} has {len(rows)} rows, expected {hub.rows}")
        return self._problems(rows, source)

    def _problems(self, rows: Sequence[Row], source: str) -> tuple[Problem, ...]:
        problems = tuple(
            Problem(
                id=next((row[field] for field in self.id_fields if field in row), f"{self.name}/{index}"),
                prompt=row["problem"],
                answer=row["answer"],
                gold_as_text=unreadable(row["answer"]),
                solution=row["solution"] if self.hub is not None and self.hub.solution_field else None,
            )
            for index, row in enumerate(rows)
            if row["answer"].strip()
        )
        if len(rows) - len(problems) != self.empty_golds:
            raise DataError(
                f"{self.name}: {source} has {len(rows) - len(problems)} rows with an empty gold answer, "
                f"expected {self.empty_golds}"
            )
        return problems

    def _verified(self, path: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot read {path}: {error.strerror}. {DATA_VARIABLE} must be a folder that holds "
                f"{self.file}" + (f"; unset it to load {self.hub.path} from the hub" if self.hub is not None else "")
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DataError(
                f"{self.name}: {path} is not the expected file of {self.rows} rows: SHA-256 expected {self.sha256}, "
                f"found {found}. Restore the original file"
            )
        return content


MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def _mawps_asdiv_a(name: str, part: tuple[int, int] | None) -> MathBenchmark:
    """The training set of SVAMP's authors, MAWPS before ASDiv-A, or one of the two."""
    return MathBenchmark(
        name=name,
        file="train/mawps_asdiv_a_3138.jsonl",
        rows=3138,
        sha256="f4b220d23e070c71eacc515d8704d06b2288c05a727fff3c9157112a8b780db9",
        part=part,
        id_fields=("id",),
        hub=None,
    )


_GSM8K_REVISION = "740312add88f781978c0658806c59bc2815b9866"

MATH_BENCHMARKS = (
    MathBenchmark(
        name="gsm8k",
        file="benchmarks/gsm8k_test.jsonl",
        rows=1319,
        sha256="f8bdea0d0d98274c725374df3dac83c9ea5f4cbca6997ef3cc4b1b0c49f2cca9",
        hub=HubSource(
            path="openai/gsm8k",
            configurations=("main",),
            split="test",
            revision=_GSM8K_REVISION,
            rows=1319,
            prompt_fields=("question",),
            answer=_after_hashes,
        ),
    ),
    MathBenchmark(
        name="math500",
        file="benchmarks/math500.jsonl",
        rows=500,
        sha256="2543075d25d1b25ecc3ba0a036bf394cfd19bb0fd3d6bcb31037dfc0d6f1ce7e",
        id_fields=("id", "unique_id"),
        hub=HubSource(
            path="HuggingFaceH4/MATH-500",
            split="test",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            rows=500,
        ),
    ),
    MathBenchmark(
        name="aime24",
        file="benchmarks/aime24.jsonl",
        rows=30,
        sha256="1cec3e1b343837e2e89dcd00508c3f5025beb614a882d99c3ff8f6037655e84d",
        hub=HubSource(
            path="HuggingFaceH4/aime_2024",
            split="train",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            rows=30,
            answer=_integer_answer,
        ),
    ),
    MathBenchmark(
        name="aime25",
        file="benchmarks/aime25.jsonl",
        rows=30,
        sha256="b419a9f799241a81a2ac7cb876fb9f1337c6275e5c985abd3f48e945e9fa8a54",
        hub=HubSource(
            path="math-ai/aime25",
            split="test",
            revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
            rows=30,
        ),
    ),
    MathBenchmark(
        name="amc23",
        file="benchmarks/amc23.jsonl",
        rows=40,
        sha256="51559636f6f31de7f089a84980b1acbf37c6df4a817f705d8f108d6aaf337c02",
        hub=HubSource(
            path="math-ai/amc23",
            split="test",
            revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
            rows=40,
            prompt_fields=("question",),
            answer=_integer_answer,
        ),
    ),
    MathBenchmark(
        name="amc83",
        file="benchmarks/amc_2022_2023.jsonl",
        rows=83,
        sha256="3781e45536d227f8a5414f4286dc03acc3351931061cc941fbcfc789ae5859ea",
        hub=HubSource(
            path="AI-MO/aimo-validation-amc",
            split="train",
            revision="69d78a4a2c840e82d69af6bc742bda09005f6316",
            rows=83,
            answer=_integer_answer,
        ),
    ),
    MathBenchmark(
        name="minerva",
        file="benchmarks/minerva_math.jsonl",
        rows=272,
        sha256="fc96aa62f94e21378307d590752bdc54a48ab86eaeacdcd3157e7249adffc11d",
        hub=HubSource(
            path="math-ai/minervamath",
            split="test",
            revision="ee46ddc498933b1977577953250ca5c66be64f96",
            rows=272,
            prompt_fields=("question",),
        ),
    ),
    MathBenchmark(
        name="olympiadbench",
        file="benchmarks/olympiadbench_math_en.jsonl",
        rows=675,
        sha256="db2aee11605b658e8c23c5e4b44b3aee183e747b1b38766ac188b6ccfc5f4437",
        hub=HubSource(
            path="math-ai/olympiadbench",
            split="test",
            revision="4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84",
            rows=674,
            prompt_fields=("question",),
            answer=_only_final_answer,
        ),
    ),
    MathBenchmark(
        name="svamp",
        file="benchmarks/svamp.jsonl",
        rows=1000,
        sha256="e78dacf5388a12aeb6d9a4ba5241b12fb79c4c338d8188861b60e8aae08267e5",
        id_fields=("id", "ID"),
        hub=HubSource(
            path="ChilleD/SVAMP",
            split="train+test",
            revision="5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
            rows=1000,
            prompt_fields=("Body", "Question"),
            answer=_number_answer,
        ),
    ),
    _mawps_asdiv_a("mawps-train", (0, 1921)),
    _mawps_asdiv_a("asdiv-a-train", (1921, 3138)),
    _mawps_asdiv_a("mawps-asdiv-a-train", None),
    MathBenchmark(
        name="gsm8k-train",
        file="train/gsm8k_train.jsonl",
        rows=7473,
        sha256="67ea20d53f21367d63c39f6c5b7d3e0b33306de370e0d86d2193a18205ede148",
        hub=HubSource(
            path="openai/gsm8k",
            configurations=("main",),
            split="train",
            revision=_GSM8K_REVISION,
            rows=7473,
            prompt_fields=("question",),
            answer=_after_hashes,
            solution_field="answer",
        ),
    ),
    MathBenchmark(
        name="math-train",
        file="train/math_train_7500.jsonl.gz",
        rows=7500,
        empty_golds=2,
        sha256="b4a62d1afb51a8537f8f4e9c89054da027d8072df04fac95784ecffad3694133",
        hub=HubSource(
            path="EleutherAI/hendrycks_math",
            configurations=MATH_SUBJECTS,
            split="train",
            revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
            rows=7500,
            answer=_last_boxed,
            solution_field="solution",
        ),
    ),
)
"""Every MATH train row is in `math-train` except the two whose gold is empty in the source: 7,498 problems."""
