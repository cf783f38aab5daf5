//! What one interface may take of the connection table.

/// An interface's own limits; what is `None` is as for every interface, 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowLimits {
    /// Most flows at a time, over all workers.
    pub max_flows: Option<u32>,
    /// Most new flows a second, over all workers.
    pub new_per_second: Option<u32>,
}

impl FlowLimits {
    /// Most interfaces of a policy that have limits of their own: each worker has room for them
    /// from the start.
    pub const INTERFACES_MAX: usize = 4096;

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}
