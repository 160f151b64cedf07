"""Those measured, one module each: `python -m bench.peers.NAME worker|client`.

Each runs in processes of its own, with nothing imported but its library and `bench.peers.protocol`.
"""
