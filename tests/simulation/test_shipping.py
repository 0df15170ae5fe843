"""An app that lives in the script being run reaches a worker, its caches empty and working."""

import subprocess
import sys

SCRIPT = """
import functools, pickle, sys
from fedeff.simulation.shipping import packed

calls = []

@functools.lru_cache(maxsize=3)
def load(n):
    calls.append(n)
    return n * 2

def app(n):
    return load(n) + load(n)

load(1)
print(packed(app).hex())
"""
READER = """
import pickle, sys
app = pickle.loads(bytes.fromhex(sys.stdin.read()))
load = app.__globals__["load"]
assert load.cache_info().currsize == 0
assert app(4) == 16
assert load.cache_info().misses == 1 and load.cache_info().maxsize == 3
"""


def test_a_cached_function_of_the_script_arrives_with_an_empty_cache() -> None:
    sent = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    subprocess.run([sys.executable, "-c", READER], input=sent.stdout, text=True, check=True)
