//! Bitmap rows over the services of a program, sparse and summarised.
//!
//! A row is a tree of 64-bit words with as many levels as the program's widest bit needs: up to 64
//! services one word, up to 4,096 a summary (a bit for each word that is not zero) and those words,
//! and so on. Only words with a bit are stored, so a row costs what it holds, however wide the
//! program, and equal parts are stored once.
//!
//! ```text
//! inner node   [ summary | child | child | … ]   children of the set bits, in order, as offsets
//! leaf         [ bits | base ]                   `rules[base + k]` is the rule of the k-th set bit
//! ```
//!
//! The AND of two rows walks both trees along the common bits of their summaries.

/// Bits of a word, and most children of a node.
pub(crate) const FANOUT: u32 = 64;
/// Most levels: 64⁴ services.
pub(crate) const LEVELS_MAX: u32 = 4;

/// A row of a pool: the offset of its root. Row 0 is always empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row(pub(crate) u32);

impl Row {
    /// No bit.
    pub(crate) const EMPTY: Self = Self(0);
}

/// The lowest common bit of two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Common {
    /// Which bit.
    pub(crate) bit: u32,
    /// The first row's rule for it.
    pub(crate) rule: u32,
}

/// All rows of one program.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    words: Box<[u64]>,
    rules: Box<[u32]>,
    /// Inner levels above the leaves, less than [`LEVELS_MAX`].
    inner_levels: u32,
}

impl Rows {
    /// Takes a pool over; the row builder is the one who knows how to lay it out.
    pub(crate) fn new(words: Vec<u64>, rules: Vec<u32>, inner_levels: u32) -> Self {
        Self {
            words: words.into(),
            rules: rules.into(),
            inner_levels: inner_levels.min(LEVELS_MAX.saturating_sub(1)),
        }
    }

    /// The lowest bit that both rows have, and the rule that `ruled` has for it.
    #[inline]
    pub(crate) fn first_common(&self, ruled: Row, other: Row) -> Option<Common> {
        if ruled == Row::EMPTY || other == Row::EMPTY {
            return None;
        }
        let (bit, index) = self.descend(ruled.0, other.0, self.inner_levels)?;
        let rule = *self.rules.get(usize::try_from(index).ok()?)?;
        Some(Common { bit, rule })
    }

    /// Lowest common bit below two nodes, and the place of its rule. Recurs less than
    /// [`LEVELS_MAX`] deep.
    fn descend(&self, ruled: u32, other: u32, level: u32) -> Option<(u32, u64)> {
        let ruled_word = self.word(ruled, 0)?;
        let other_word = self.word(other, 0)?;
        let mut common = ruled_word & other_word;
        let Some(below) = level.checked_sub(1) else {
            if common == 0 {
                return None;
            }
            let bit = common.trailing_zeros();
            let base = self.word(ruled, 1)?;
            return Some((bit, base.wrapping_add(u64::from(rank(ruled_word, bit)))));
        };
        for _ in 0..FANOUT {
            if common == 0 {
                break;
            }
            let bit = common.trailing_zeros();
            let ruled_child = self.child(ruled, ruled_word, bit)?;
            let other_child = self.child(other, other_word, bit)?;
            if let Some((low, index)) = self.descend(ruled_child, other_child, below) {
                // Six bits of the number a level, the root's on top.
                let high = bit.checked_shl(level.wrapping_mul(FANOUT.trailing_zeros()))?;
                return Some((high | low, index));
            }
            common &= common.wrapping_sub(1);
        }
        None
    }

    #[inline]
    fn child(&self, node: u32, summary: u64, bit: u32) -> Option<u32> {
        let word = self.word(node, rank(summary, bit).wrapping_add(1))?;
        u32::try_from(word).ok()
    }

    #[inline]
    fn word(&self, node: u32, position: u32) -> Option<u64> {
        let index = (node as usize).wrapping_add(position as usize);
        self.words.get(index).copied()
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.words).saturating_add(size_of_val(&*self.rules))
    }
}

/// How many bits of a word are set below `bit`.
#[inline]
fn rank(word: u64, bit: u32) -> u32 {
    let below = 1_u64.wrapping_shl(bit).wrapping_sub(1);
    (word & below).count_ones()
}
