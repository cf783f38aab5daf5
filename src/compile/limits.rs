//! Limits of their own that interfaces have.

use std::collections::BTreeMap;

use crate::policy::Interface;
use crate::sync::Arc;
use crate::types::{FlowLimits, InterfaceSlot};

/// Limits by interface, in order of their slots.
pub(super) type LimitTable = Arc<[(InterfaceSlot, FlowLimits)]>;

/// The interfaces with limits of their own; snapshots share the table until they differ.
#[derive(Clone, Debug)]
pub(super) struct OwnLimits {
    by_slot: BTreeMap<InterfaceSlot, FlowLimits>,
    table: LimitTable,
    is_changed: bool,
}

impl OwnLimits {
    /// No interface has any.
    pub(super) fn new() -> Self {
        Self {
            by_slot: BTreeMap::new(),
            table: Arc::from([]),
            is_changed: false,
        }
    }

    /// An interface comes.
    pub(super) fn come(&mut self, slot: u32, interface: &Interface) {
        if !interface.limits.is_empty() {
            self.by_slot.insert(InterfaceSlot(slot), interface.limits);
            self.is_changed = true;
        }
    }

    /// An interface leaves.
    pub(super) fn leave(&mut self, slot: u32) {
        self.is_changed |= self.by_slot.remove(&InterfaceSlot(slot)).is_some();
    }

    /// The table by now.
    pub(super) fn flush(&mut self) -> LimitTable {
        if std::mem::take(&mut self.is_changed) {
            let all = self.by_slot.iter().map(|(slot, limits)| (*slot, *limits));
            self.table = all.collect();
        }
        Arc::clone(&self.table)
    }
}
