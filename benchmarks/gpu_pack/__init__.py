"""One command that turns a while with a GPU into complete evidence: ``python -m benchmarks.gpu_pack --out DIR``."""
