"""A SentencePiece model (`tokenizer.model`) as data: its tokenizer.json, which gives the same ids.

InternLM2.5's own tokenizer class is remote code, which is never run. Read from sentencepiece_model.proto of
google/sentencepiece, and InternLM's `tokenization_internlm2_fast.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.errors import UserError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

CLASSES = frozenset({"InternLM2Tokenizer", "InternLM2TokenizerFast"})  # whose code adds nothing to the file
SPACE = "\u2581"  # how a piece writes a space
_BPE = 2  # `TrainerSpec.ModelType`


class PieceType(IntEnum):
    """`SentencePiece.Type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary. Of two pieces that text could be joined to, the one of higher score is taken."""

    text: str
    score: float
    kind: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """What a BPE model says. The id of a piece is its place."""

    pieces: tuple[Piece, ...]
    leading_space: bool  # text is read as if a space came before it


def tokenizer_json(path: Path, model: bytes, config: Mapping[str, Any]) -> str:
    """The tokenizer.json of a tokenizer.model. `config` is tokenizer_config.json, `path` the model for messages.

    Raises UserError if the model is none, or a tokenizer.json could not give the same ids.
    """
    from tokenizers import processors

    tokenizer = _bpe(path, read_model(path, model), _added_tokens(path, config))
    bos = config.get("bos_token", "<s>")
    bos = bos.get("content") if isinstance(bos, Mapping) else bos
    if config.get("add_bos_token", True) and bos is not None:  # the default of InternLM2's class
        first = _id_of(tokenizer, bos)
        if first is None:
            raise UserError(f"{path} has no token {bos!r:.80}, with which texts would begin: fetch the model again")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0",
            pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
            special_tokens=[(bos, first)],
        )
    return str(tokenizer.to_str())


def _id_of(tokenizer: Tokenizer, token: Any) -> int | None:
    """None: there is no such token, or it is no text."""
    try:
        index: int | None = tokenizer.token_to_id(token)
    except (TypeError, UnicodeEncodeError):
        return None
    return index


def read_model(path: Path, model: bytes) -> SentencePieceModel:
    """Reads the file. Raises UserError if it is none, no BPE model, or changes text before it is cut into pieces."""
    try:
        fields = list(_fields(model))
        pieces = tuple(_piece(value) for number, value in fields if number == 1)
        trainer, normalizer = (dict(_fields(dict(fields).get(number, b""))) for number in (2, 3))
    except (ValueError, LookupError, AttributeError, TypeError, struct.error):
        raise UserError(f"{path} is not a SentencePiece model: fetch the model again") from None
    faults = {
        "is not a BPE model": trainer.get(3, 1) != _BPE,
        "has no byte fallback": not trainer.get(35, 0),
        "takes a space as the end of a word": bool(trainer.get(24, 0)),
        "normalises text": bool(normalizer.get(2)),
        "drops spaces": bool(normalizer.get(4, 1)),
        "has not one unknown piece": [piece.kind for piece in pieces].count(PieceType.UNKNOWN) != 1,
    }
    for fault, is_there in faults.items():
        if is_there:
            raise UserError(f"{path} {fault}: add its tokenizer.json (save_pretrained of the fast tokenizer writes it)")
    return SentencePieceModel(pieces, leading_space=bool(normalizer.get(3, 1)))


def _bpe(path: Path, model: SentencePieceModel, added: Mapping[int, AddedToken]) -> Tokenizer:
    """`added` are tokens by id; they replace pieces, which were left unused for them, or follow the last one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    names = [added[index].content if index in added else piece.text for index, piece in enumerate(model.pieces)]
    vocabulary = {name: index for index, name in enumerate(names)}
    (unknown,) = (names[index] for index, piece in enumerate(model.pieces) if piece.kind is PieceType.UNKNOWN)
    bpe = models.BPE(vocabulary, _merges(model, vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    prefix = [normalizers.Prepend(SPACE)] if model.leading_space else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if model.leading_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    for _, token in sorted(added.items()):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    own = [piece.text for index, piece in enumerate(model.pieces) if _stands_alone(piece) and index not in added]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in own])
    for index, token in added.items():
        if tokenizer.token_to_id(token.content) != index:
            raise UserError(
                f"{path}: tokenizer_config.json gives {token.content!r} the id {index}, which does not follow the "
                f"{len(model.pieces)} pieces: fetch the model again"
            )
    return tokenizer


def _stands_alone(piece: Piece) -> bool:
    """Whether the piece is found in text before anything is joined."""
    return piece.kind is PieceType.USER_DEFINED and SPACE not in piece.text


def _merges(model: SentencePieceModel, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of pieces that are a piece together, best first; of one piece, those with the longest left part."""
    joined = [piece for piece in model.pieces if piece.kind in (PieceType.NORMAL, PieceType.USER_DEFINED)]
    return [
        (piece.text[:cut], piece.text[cut:])
        for piece in sorted(joined, key=lambda piece: -piece.score)
        if not _stands_alone(piece) and piece.text in vocabulary
        for cut in range(len(piece.text) - 1, 0, -1)
        if piece.text[:cut] in vocabulary and piece.text[cut:] in vocabulary
    ]


def _added_tokens(path: Path, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    from tokenizers import AddedToken

    try:
        return {int(index): AddedToken(**token) for index, token in config.get("added_tokens_decoder", {}).items()}
    except (TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path}: added_tokens_decoder of tokenizer_config.json cannot be read: fetch the model again"
        ) from None


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return Piece(fields[1].decode(), score, PieceType(fields.get(3, PieceType.NORMAL)))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message of protobuf's wire format: numbers as int, everything else as bytes.

    Raises ValueError or LookupError if it is none.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        size = varint() if wire == 2 else {1: 8, 5: 4}[wire]
        if at + size > len(message):
            raise ValueError("a field goes past the end")
        yield number, message[at : at + size]
        at += size
