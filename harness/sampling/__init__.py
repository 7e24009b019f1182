"""Sampling engines behind one protocol, `Engine` (engine.py), where `open_engine` also says which one a suite gets.

The engines of this process stand in local.py, vLLM's in vllm_engine.py; a new one is a file here and a line there.
"""
