"""A head that another package provides."""

from vidloc.core.records import Source
from vidloc.heads.two_branch import TwoBranch


class ThirdPartyHead(TwoBranch):
    """The two-branch baseline under another name."""

    source = Source(paper="A third party's paper")
