"""The one tree of errors that users of this project meet.

Every class says what kind of mistake it stands for; every message is one sentence that says what
was found, what is allowed and what to do.  ``spartan_planner.errors`` extends the tree with the
mistakes that only the planner can see.
"""


class SpartanPlannerError(Exception):
    """Base of every error that this project raises on purpose."""


class DocumentError(SpartanPlannerError):
    """A file cannot be read, parsed or written."""


class UnknownNameError(SpartanPlannerError, ValueError):
    """A name (cost model, layout, profile, layer) that nothing is known by.

    Also a ``ValueError``: a document that holds such a name then says where.
    """


class CostModelError(SpartanPlannerError):
    """A cost cannot be computed from what is known about the layer and the device."""
