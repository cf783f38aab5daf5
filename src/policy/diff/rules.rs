//! What the groups of each side allow, as pieces: a span of services and a set of addresses.

use std::collections::HashMap;

use super::Side;
use super::axis::{Families, Span, span_of};
use super::budget::{Budget, DiffError};
use super::peers::{Peers, SetId};
use crate::policy::{GroupIndex, Policy};
use crate::sync::Arc;
use crate::types::Direction;

/// What one rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Piece {
    /// The services.
    pub(super) span: Span,
    /// The families of addresses that they have.
    pub(super) families: Families,
    /// With whom.
    pub(super) set: SetId,
}

/// Pieces in order, each once.
pub(super) type Pieces = Arc<[Piece]>;

/// Number of a list of pieces: two lists with the same pieces have the same one.
type ContentId = u32;

/// The pieces of every group that was asked for.
#[derive(Debug)]
pub(super) struct Rules<'p> {
    policies: [&'p Policy; 2],
    /// By side, group and direction.
    of_group: [Vec<[Option<ContentId>; 2]>; 2],
    ids: HashMap<Pieces, ContentId>,
    contents: Vec<Pieces>,
}

impl<'p> Rules<'p> {
    pub(super) fn new(policies: [&'p Policy; 2]) -> Self {
        Self {
            policies,
            of_group: policies.map(|policy| vec![[None; 2]; policy.groups.len()]),
            ids: HashMap::new(),
            contents: Vec::new(),
        }
    }

    /// Numbers of what some groups allow, in order: equal lists allow the same.
    pub(super) fn contents(
        &mut self,
        side: Side,
        groups: &[GroupIndex],
        direction: Direction,
        peers: &mut Peers<'_>,
        budget: &mut Budget,
    ) -> Result<Vec<ContentId>, DiffError> {
        let mut list = Vec::with_capacity(groups.len());
        for group in groups {
            list.push(self.content(side, *group, direction, peers, budget)?);
        }
        list.sort_unstable();
        list.dedup();
        Ok(list)
    }

    fn content(
        &mut self,
        side: Side,
        group: GroupIndex,
        direction: Direction,
        peers: &mut Peers<'_>,
        budget: &mut Budget,
    ) -> Result<ContentId, DiffError> {
        let place = (side as usize, group.0 as usize, direction as usize);
        if let Some(id) = self.of_group[place.0][place.1][place.2] {
            return Ok(id);
        }
        let rules = self.policies[place.0].group(group).rules(direction);
        let mut pieces = Vec::with_capacity(rules.len());
        for rule in rules {
            let (span, families) = span_of(rule.service);
            let set = peers.id(side, rule.peer, budget)?;
            pieces.push(Piece {
                span,
                families,
                set,
            });
        }
        pieces.sort_unstable();
        pieces.dedup();
        budget.work(pieces.len())?;
        let pieces: Pieces = pieces.into();
        let id = match self.ids.get(&pieces) {
            Some(id) => *id,
            None => {
                // At most one for each group and direction.
                let id = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
                self.contents.push(Arc::clone(&pieces));
                self.ids.insert(pieces, id);
                id
            }
        };
        self.of_group[place.0][place.1][place.2] = Some(id);
        Ok(id)
    }

    /// The pieces of some contents together, in order, each once.
    pub(super) fn pieces(
        &self,
        contents: &[ContentId],
        budget: &mut Budget,
    ) -> Result<Pieces, DiffError> {
        let lists = contents.iter().map(|id| &self.contents[*id as usize]);
        if let [one] = contents {
            return Ok(Arc::clone(&self.contents[*one as usize]));
        }
        let mut pieces: Vec<Piece> = lists.flat_map(|list| list.iter().copied()).collect();
        budget.work(pieces.len())?;
        pieces.sort_unstable();
        pieces.dedup();
        Ok(pieces.into())
    }
}
