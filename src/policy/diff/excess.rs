//! What some pieces allow that others do not: exact, as slices of the service axis with a set of
//! addresses each.
//!
//! Only pieces that the others have not are looked at, and only that part of a group or prefix list
//! that the others' one of the same name has not: a small change costs little in a large policy.
//! From what is left, everything is taken that the others allow by whichever rule.
//!
//! Slices of different spans may overlap: a rule for port 22 and one for all ports are two slices,
//! as people would say it. One that another contains wholly is left out.

use super::axis::{Families, Span};
use super::budget::{Budget, DiffError};
use super::peers::{Peers, SetId};
use super::ranges::{AddressSet, Ranges, SORT_COST};
use super::rules::Piece;
use crate::sync::Arc;

/// Some services with some addresses.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    /// The services.
    pub(super) span: Span,
    /// The addresses.
    pub(super) addresses: Arc<AddressSet>,
    /// Groups and prefix lists that may be meant as a whole.
    pub(super) named: Arc<[Piece]>,
}

/// What `more` allows and `base` does not; both sorted.
pub(super) fn excess(
    more: &[Piece],
    base: &[Piece],
    peers: &mut Peers<'_>,
    budget: &mut Budget,
) -> Result<Vec<Slice>, DiffError> {
    budget.work(more.len())?;
    let mut fresh: Vec<Piece> = Vec::new();
    for piece in more.iter().filter(|piece| !has(base, piece)) {
        fresh.push(narrowed(*piece, base, peers, budget)?);
    }
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    fresh.sort_unstable();
    let (index, fresh_index) = (PieceIndex::new(base), PieceIndex::new(&fresh));
    let mut slices = Vec::new();
    for same_span in fresh.chunk_by(|a, b| a.span == b.span) {
        let span = same_span[0].span;
        let (around, across) = index.overlapping(span, budget)?;
        let all = union(same_span, peers, budget)?;
        let left = minus(&all, &around, peers, budget)?;
        if left.is_empty() {
            continue;
        }
        let (mut wider, _) = fresh_index.overlapping(span, budget)?;
        wider.retain(|piece| piece.span != span);
        if minus(&left, &wider, peers, budget)?.is_empty() {
            continue;
        }
        let named = same_span.iter().copied();
        let named = named.filter(|piece| peers.is_named(piece.set)).collect();
        cut(span, left, &across, peers, budget, |span, addresses| {
            slices.push(Slice {
                span,
                addresses,
                named: Arc::clone(&named),
            });
        })?;
    }
    Ok(slices)
}

fn has(pieces: &[Piece], piece: &Piece) -> bool {
    pieces.binary_search(piece).is_ok()
}

/// A piece without what the base allows by the same rule, before its group or list changed.
fn narrowed(
    piece: Piece,
    base: &[Piece],
    peers: &mut Peers<'_>,
    budget: &mut Budget,
) -> Result<Piece, DiffError> {
    let Some(before) = peers.before(piece.set) else {
        return Ok(piece);
    };
    let counterpart = Piece {
        set: before,
        ..piece
    };
    // One that was empty is gained as a whole, and by its name.
    if !has(base, &counterpart) || peers.addresses(before, budget)?.is_empty() {
        return Ok(piece);
    }
    Ok(Piece {
        set: peers.difference(piece.set, before),
        ..piece
    })
}

/// Takes from a span what pieces that lie across it have, part by part.
fn cut(
    span: Span,
    left: AddressSet,
    across: &[Piece],
    peers: &mut Peers<'_>,
    budget: &mut Budget,
    mut emit: impl FnMut(Span, Arc<AddressSet>),
) -> Result<(), DiffError> {
    let mut taking = Vec::new();
    for piece in across {
        let addresses = peers.addresses(piece.set, budget)?;
        if restricted(&addresses, piece.families).meets(&left, budget)? {
            taking.push(*piece);
        }
    }
    let mut starts = vec![span.from];
    for piece in &taking {
        starts.push(piece.span.from.max(span.from));
        if piece.span.to < span.to {
            starts.push(piece.span.to + 1);
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let left = Arc::new(left);
    let ends = starts.iter().skip(1).map(|start| start - 1);
    let ends = ends.chain([span.to]).collect::<Vec<_>>();
    // Sorted by where they begin, as all lists of pieces.
    let mut waiting = taking.iter().peekable();
    let mut active: Vec<Piece> = Vec::new();
    let mut last: Option<(Span, Arc<AddressSet>)> = None;
    for (from, to) in starts.into_iter().zip(ends) {
        active.retain(|piece| from <= piece.span.to);
        while let Some(piece) = waiting.next_if(|piece| piece.span.from <= from) {
            active.push(*piece);
        }
        budget.work(active.len() + 1)?;
        let addresses = match &*active {
            [] => Arc::clone(&left),
            active => Arc::new(minus(&left, active, peers, budget)?),
        };
        match &mut last {
            Some((span, same)) if *same == addresses => span.to = to,
            _ => {
                if let Some((span, addresses)) = last.replace((Span { from, to }, addresses)) {
                    keep(span, addresses, budget, &mut emit)?;
                }
            }
        }
    }
    match last {
        Some((span, addresses)) => keep(span, addresses, budget, &mut emit),
        None => Ok(()),
    }
}

fn keep(
    span: Span,
    addresses: Arc<AddressSet>,
    budget: &mut Budget,
    emit: &mut impl FnMut(Span, Arc<AddressSet>),
) -> Result<(), DiffError> {
    if addresses.is_empty() {
        return Ok(());
    }
    budget.keep(addresses.len() + 1)?;
    emit(span, addresses);
    Ok(())
}

/// All addresses of pieces.
fn union(
    pieces: &[Piece],
    peers: &mut Peers<'_>,
    budget: &mut Budget,
) -> Result<AddressSet, DiffError> {
    let (v4, v6) = by_family(pieces, peers, budget)?;
    let v4: Vec<&Ranges<u32>> = v4.iter().map(|set| &set.v4).collect();
    let v6: Vec<&Ranges<u128>> = v6.iter().map(|set| &set.v6).collect();
    Ok(AddressSet {
        v4: Ranges::union(&v4, budget)?,
        v6: Ranges::union(&v6, budget)?,
    })
}

/// What none of the pieces has.
fn minus(
    addresses: &AddressSet,
    pieces: &[Piece],
    peers: &mut Peers<'_>,
    budget: &mut Budget,
) -> Result<AddressSet, DiffError> {
    let (v4, v6) = by_family(pieces, peers, budget)?;
    let v4: Vec<&Ranges<u32>> = v4.iter().map(|set| &set.v4).collect();
    let v6: Vec<&Ranges<u128>> = v6.iter().map(|set| &set.v6).collect();
    Ok(AddressSet {
        v4: addresses.v4.minus_all(&v4, budget)?,
        v6: addresses.v6.minus_all(&v6, budget)?,
    })
}

type Sets = Vec<Arc<AddressSet>>;

/// The sets of the pieces that reach IPv4, and of those that reach IPv6, each once.
fn by_family(
    pieces: &[Piece],
    peers: &mut Peers<'_>,
    budget: &mut Budget,
) -> Result<(Sets, Sets), DiffError> {
    budget.work(pieces.len().saturating_mul(SORT_COST))?;
    let mut of = |other: Families| -> Result<Sets, DiffError> {
        let reaching = pieces.iter().filter(|piece| piece.families != other);
        let mut ids: Vec<SetId> = reaching.map(|piece| piece.set).collect();
        ids.sort_unstable();
        ids.dedup();
        let sets = ids.into_iter().map(|id| peers.addresses(id, budget));
        sets.collect()
    };
    Ok((of(Families::V6)?, of(Families::V4)?))
}

/// Those addresses of a set that services of these families have.
pub(super) fn restricted(set: &Arc<AddressSet>, families: Families) -> Arc<AddressSet> {
    match families {
        Families::Both => Arc::clone(set),
        Families::V4 => Arc::new(AddressSet {
            v4: set.v4.clone(),
            v6: Ranges::default(),
        }),
        Families::V6 => Arc::new(AddressSet {
            v4: Ranges::default(),
            v6: set.v6.clone(),
        }),
    }
}

/// Finds the pieces that overlap a span: sorted by where they begin, and of every chunk of them is
/// known how far they reach.
struct PieceIndex<'p> {
    pieces: &'p [Piece],
    reaches: Vec<u32>,
}

/// Pieces in one chunk.
const CHUNK: usize = 64;

impl<'p> PieceIndex<'p> {
    fn new(pieces: &'p [Piece]) -> Self {
        let reach = |chunk: &[Piece]| chunk.iter().map(|piece| piece.span.to).max();
        let reaches = pieces.chunks(CHUNK).map(|chunk| reach(chunk).unwrap_or(0));
        Self {
            pieces,
            reaches: reaches.collect(),
        }
    }

    /// The pieces that hold a span, and those that share a part of it.
    fn overlapping(
        &self,
        span: Span,
        budget: &mut Budget,
    ) -> Result<(Vec<Piece>, Vec<Piece>), DiffError> {
        let begun = self
            .pieces
            .partition_point(|piece| piece.span.from <= span.to);
        let (mut around, mut across) = (Vec::new(), Vec::new());
        let chunks = self.pieces[..begun].chunks(CHUNK).zip(&self.reaches);
        budget.work(begun / CHUNK + 1)?;
        for (chunk, _) in chunks.filter(|(_, reach)| span.from <= **reach) {
            budget.work(chunk.len())?;
            for piece in chunk.iter().filter(|piece| span.from <= piece.span.to) {
                if piece.span.holds(span) {
                    around.push(*piece);
                } else {
                    across.push(*piece);
                }
            }
        }
        Ok((around, across))
    }
}
