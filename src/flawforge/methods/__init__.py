"""METHODS: a plain table of every method, one paper and one file each."""

from flawforge.methods import anoseg, draem, isstad, patchstats
from flawforge.types import Method

METHODS: dict[str, Method] = {method.name: method for method in (anoseg.METHOD, draem.METHOD, isstad.METHOD, patchstats.METHOD)}
