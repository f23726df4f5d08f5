"""`python -m foveal` is the `foveal` command."""

from .cli import main

raise SystemExit(main())
