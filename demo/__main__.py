"""``make demo``, or ``python -m demo``: the whole system on this machine, one session shown."""

from demo.program import main

if __name__ == "__main__":
    raise SystemExit(main())
