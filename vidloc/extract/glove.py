"""GloVe's word vectors (Pennington et al., EMNLP 2014): a sentence as the vectors of its words, from a local file.

A row has one vector per known word (glove.6B.300d: 300 numbers), in order, and beside each the word's place in the
file. Words that the file lacks are left out, and `unknown` says how many; `unknown=zero` keeps their places, as MCN
wants. The file is indexed, not loaded: 20 bytes of memory per word.
"""

from __future__ import annotations

from vidloc.core.records import Source
from vidloc.extract.word_vectors import WordVectors


class Glove(WordVectors):
    """GloVe's vectors of the words of a sentence."""

    source = Source(
        paper="Pennington, Socher, Manning. GloVe: Global Vectors for Word Representation. EMNLP 2014.",
        code="https://github.com/stanfordnlp/GloVe",
        licence="PDDL 1.0 (published vectors)",
    )
    where = "https://nlp.stanford.edu/data/glove.6B.zip (unpack it; glove.6B.300d.txt), glove.840B.300d.zip there too"


ENCODER = Glove
