//! Lays out the bitmap rows of a program; `snapshot::rows` describes and reads them.

use hashbrown::HashMap;

use super::error::{CompileError, TABLE_BYTES_MAX};
use crate::snapshot::rows::{FANOUT, LEVELS_MAX, Row, Rows};

/// Bits that one level of a row's tree resolves.
const LEVEL_BITS: u32 = FANOUT.trailing_zeros();

/// A bit of a row and the rule that sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bit {
    pub(super) bit: u32,
    pub(super) rule: u32,
}

/// Collects the rows of one program; equal parts are stored once.
#[derive(Debug)]
pub(super) struct RowBuilder {
    words: Vec<u64>,
    rules: Vec<u32>,
    inner_levels: u32,
    nodes: HashMap<Box<[u64]>, u32>,
    runs: HashMap<Box<[u32]>, u32>,
    bytes_max: usize,
}

impl RowBuilder {
    /// For rows of so many bits that take at most so many bytes.
    pub(super) fn new(bits: usize, bytes_max: usize) -> Result<Self, CompileError> {
        let too_large = CompileError::TooLarge {
            limit: TABLE_BYTES_MAX,
        };
        let inner_levels = (0..LEVELS_MAX)
            .find(|levels| bits <= 1 << (LEVEL_BITS * (levels + 1)))
            .ok_or(too_large)?;
        Ok(Self {
            // Row 0, the empty one.
            words: vec![0; 2],
            rules: Vec::new(),
            inner_levels,
            nodes: HashMap::new(),
            runs: HashMap::new(),
            // Offsets are 32 bits.
            bytes_max: bytes_max.min(u32::MAX as usize),
        })
    }

    /// The row of these bits, each with its rule; ascending, no bit twice.
    pub(super) fn ruled(&mut self, bits: &[Bit]) -> Result<Row, CompileError> {
        debug_assert!(bits.is_sorted_by(|a, b| a.bit < b.bit), "bits ascend");
        if bits.is_empty() {
            return Ok(Row::EMPTY);
        }
        self.node(bits, self.inner_levels, true).map(Row)
    }

    /// The row of these bits without rules; ascending, no bit twice.
    pub(super) fn plain(
        &mut self,
        bits: impl IntoIterator<Item = u32>,
    ) -> Result<Row, CompileError> {
        let bits: Vec<_> = bits.into_iter().map(|bit| Bit { bit, rule: 0 }).collect();
        if bits.is_empty() {
            return Ok(Row::EMPTY);
        }
        self.node(&bits, self.inner_levels, false).map(Row)
    }

    /// All rows.
    pub(super) fn finish(self) -> Rows {
        Rows::new(self.words, self.rules, self.inner_levels)
    }

    /// Bytes so far.
    fn bytes(&self) -> usize {
        size_of_val(&*self.words) + size_of_val(&*self.rules)
    }

    /// Recurs one level down for each group of bits; at most [`LEVELS_MAX`] deep.
    fn node(&mut self, bits: &[Bit], level: u32, ruled: bool) -> Result<u32, CompileError> {
        let position = |bit: &Bit| (bit.bit >> (LEVEL_BITS * level)) % FANOUT;
        let word = bits.iter().fold(0, |word, bit| word | 1 << position(bit));
        let mut node = vec![word];
        if level == 0 {
            let base = if ruled { self.run(bits)? } else { 0 };
            node.push(u64::from(base));
        } else {
            for child in bits.chunk_by(|a, b| position(a) == position(b)) {
                node.push(u64::from(self.node(child, level - 1, ruled)?));
            }
        }
        if let Some(offset) = self.nodes.get(&*node) {
            return Ok(*offset);
        }
        let offset = self.offset_of(self.words.len())?;
        self.words.extend_from_slice(&node);
        self.nodes.insert(node.into(), offset);
        Ok(offset)
    }

    /// Where the rules of a leaf lie.
    fn run(&mut self, bits: &[Bit]) -> Result<u32, CompileError> {
        let run: Box<[u32]> = bits.iter().map(|bit| bit.rule).collect();
        if let Some(offset) = self.runs.get(&run) {
            return Ok(*offset);
        }
        let offset = self.offset_of(self.rules.len())?;
        self.rules.extend_from_slice(&run);
        self.runs.insert(run, offset);
        Ok(offset)
    }

    fn offset_of(&self, len: usize) -> Result<u32, CompileError> {
        let too_large = CompileError::TooLarge {
            limit: TABLE_BYTES_MAX,
        };
        match u32::try_from(len) {
            Ok(offset) if self.bytes() <= self.bytes_max => Ok(offset),
            _ => Err(too_large),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::rows::Common;

    #[test]
    fn first_common_agrees_with_sets_at_every_depth() {
        for width in [1_u32, 64, 65, 4096, 4097, 262_144, 262_145, 1 << 24] {
            // Close together, at both ends and at word borders, so that rows meet often.
            let bit = prop_oneof![0..width.min(8), 60..70_u32, 4090..4100_u32, 0..width]
                .prop_map(move |bit| bit.min(width - 1));
            let ruled = proptest::collection::btree_map(bit.clone(), any::<u32>(), 0..20);
            let plain = proptest::collection::btree_set(bit, 0..20);
            let rows = proptest::collection::vec((ruled, plain), 1..6);
            proptest!(ProptestConfig::with_cases(64), |(rows in rows)| {
                check(width, &rows)?;
            });
        }
    }

    fn check(
        width: u32,
        given: &[(BTreeMap<u32, u32>, BTreeSet<u32>)],
    ) -> Result<(), TestCaseError> {
        let mut builder = RowBuilder::new(width as usize, usize::MAX).unwrap();
        let mut built = Vec::new();
        for (ruled, plain) in given {
            let bits: Vec<_> = ruled
                .iter()
                .map(|(&bit, &rule)| Bit { bit, rule })
                .collect();
            let ruled = builder.ruled(&bits).unwrap();
            built.push((ruled, builder.plain(plain.iter().copied()).unwrap()));
        }
        let rows = builder.finish();
        for (a, (ruled_bits, _)) in given.iter().enumerate() {
            for (b, (_, plain_bits)) in given.iter().enumerate() {
                let expected = ruled_bits
                    .iter()
                    .find(|(bit, _)| plain_bits.contains(bit))
                    .map(|(&bit, &rule)| Common { bit, rule });
                prop_assert_eq!(rows.first_common(built[a].0, built[b].1), expected);
            }
        }
        Ok(())
    }

    #[test]
    fn a_row_wider_than_all_levels_is_refused() {
        let widest = 1 << (LEVEL_BITS * LEVELS_MAX);
        assert!(RowBuilder::new(widest, usize::MAX).is_ok());
        assert!(RowBuilder::new(widest + 1, usize::MAX).is_err());
    }

    #[test]
    fn rows_beyond_their_bytes_are_refused() {
        let mut builder = RowBuilder::new(64, 1000).unwrap();
        let error = (0..100).find_map(|rule| builder.ruled(&[Bit { bit: 3, rule }]).err());
        assert_eq!(
            error,
            Some(CompileError::TooLarge {
                limit: TABLE_BYTES_MAX
            })
        );
    }

    #[test]
    fn equal_rows_are_stored_once() {
        let mut builder = RowBuilder::new(5000, usize::MAX).unwrap();
        let bits = [Bit { bit: 1, rule: 9 }, Bit { bit: 4999, rule: 8 }];
        let first = builder.ruled(&bits).unwrap();
        let bytes = builder.bytes();
        assert_eq!(builder.ruled(&bits).unwrap(), first);
        assert_eq!(builder.bytes(), bytes);
    }
}
