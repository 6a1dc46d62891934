"""METHODS: a plain table of every method, one paper and one file each."""

from flawforge.methods import anoseg, draem, isstad, patchstats, sgsf
from flawforge.types import Method

METHODS: dict[str, Method] = {module.METHOD.name: module.METHOD for module in (anoseg, draem, isstad, patchstats, sgsf)}
