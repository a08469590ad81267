//! The pieces of a file that isn't whole, in a bucket. Two nodes may each have taken some, which may overlap.

use std::ops::Range;

use object_store::path::Path;
use rand::Rng as _;

use super::hex;

/// A piece of a file. Those of one file are told apart by where they begin and by chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// What it is called, the file's name before it.
    pub(super) path: Path,
    /// Where it begins in the file.
    offset: u64,
    /// How many bytes it has.
    pub(super) size: u64,
}

impl Piece {
    /// What a new piece is called that begins at `offset`.
    pub(super) fn name(offset: u64) -> String {
        let mut chance = [0; 8];
        rand::rng().fill_bytes(&mut chance);
        format!("{offset:020}-{}", hex(&chance))
    }

    /// `None`: it is something else.
    pub(super) fn read(path: Path, size: u64) -> Option<Self> {
        let (offset, _) = path.filename()?.split_once('-')?;
        let offset = offset.parse().ok()?;
        Some(Self { path, offset, size })
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// What there is of a file without a gap, from its beginning on: pieces, and what of each is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    links: Vec<(Piece, Range<u64>)>,
    size: u64,
}

impl Chain {
    /// Of all that is there, the way that leads farthest: nothing that was acknowledged is left out, whoever took it.
    pub(crate) fn of(mut pieces: Vec<Piece>) -> Self {
        pieces.sort_unstable_by_key(|piece| piece.offset);
        let mut pieces = pieces.into_iter().peekable();
        let mut chain = Self::default();
        loop {
            let mut farthest: Option<Piece> = None;
            while let Some(piece) = pieces.next_if(|piece| piece.offset <= chain.size) {
                if piece.end() > farthest.as_ref().map_or(chain.size, Piece::end) {
                    farthest = Some(piece);
                }
            }
            let Some(piece) = farthest else { return chain };
            let range = chain.size - piece.offset..piece.size;
            chain.size = piece.end();
            chain.links.push((piece, range));
        }
    }

    /// How much is there.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn into_links(self) -> Vec<(Piece, Range<u64>)> {
        self.links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, size: u64) -> Piece {
        let name = format!("partial/abc/{}", Piece::name(offset));
        Piece::read(Path::from(name), size).expect("it is called as pieces are")
    }

    fn chain(pieces: &[(u64, u64)]) -> (u64, Vec<(u64, Range<u64>)>) {
        let chain = Chain::of(pieces.iter().map(|(offset, size)| piece(*offset, *size)).collect());
        let size = chain.size();
        (size, chain.into_links().into_iter().map(|(piece, range)| (piece.offset, range)).collect())
    }

    #[test]
    fn pieces_follow_each_other_up_to_the_first_gap() {
        assert_eq!(chain(&[]), (0, vec![]));
        assert_eq!(chain(&[(5, 5)]), (0, vec![]));
        assert_eq!(chain(&[(8, 2), (0, 5), (5, 3), (11, 1)]), (10, vec![(0, 0..5), (5, 0..3), (8, 0..2)]));
        assert_eq!(chain(&[(0, 0), (0, 3)]), (3, vec![(0, 0..3)]));
    }

    #[test]
    fn of_what_two_have_taken_at_once_nothing_is_left_out() {
        assert_eq!(chain(&[(0, 5), (0, 8), (5, 1)]).0, 8);
        assert_eq!(chain(&[(0, 5), (3, 7), (4, 2), (6, 1)]), (10, vec![(0, 0..5), (3, 2..7)]));
        assert_eq!(chain(&[(0, 9), (2, 3)]), (9, vec![(0, 0..9)]));
    }

    #[test]
    fn something_else_is_no_piece() {
        for name in ["partial/abc/0", "partial/abc/x-1", "partial/abc/-1-1"] {
            assert_eq!(Piece::read(Path::from(name), 1), None, "{name}");
        }
    }
}
