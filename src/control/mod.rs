//! The control side of a running gateway: one [`Command`] enum, one [`Controller`] that carries it
//! out, and thin adapters (a unix socket here, the command line in `crate::cli`) around it.
//!
//! Changes validate → compile → publish → wait until live, or leave everything as it was.
#![deny(unsafe_code)]

mod answer;
mod client;
mod command;
mod controller;
mod deadlines;
mod endpoint;
mod explain;
mod flow_filter;
mod flows;
mod publish;
mod rule_changes;
mod server;
mod slots;
mod staging;
mod status;
mod version_commands;
mod versions;
mod watch;

pub use answer::Answer;
pub use client::{Client, ClientError};
pub use command::{
    Applied, ApplyRequest, Command, ExplainRequest, FlowCursor, FlowsRequest, Refusal,
};
pub use controller::{Controller, ControllerSetup, ReloadCause};
pub use endpoint::Endpoint;
pub use explain::{Explanation, Step, explain, links_of};
pub use flow_filter::{FlowFilter, PeerPrefix, PeerPrefixError};
pub use flows::{FlowList, FlowRow};
pub use publish::{
    ConfirmError, Intent, NotLive, PolicyState, PublishError, Published, RollbackError, View,
};
pub use server::{Server, ServerError, SocketOwner};
pub use status::{EvictedBy, LinkStatus, PortStatus, QueueStatus, Status};
pub use version_commands::{
    Confirmation, Confirmed, History, RollbackRequest, RolledBack, RuleAddRequest, RuleChanged,
    RuleRemoveRequest, RuleRow, VersionRow,
};
pub use versions::{Origin, Pending, Tally, Version};
pub use watch::{WatchError, watch_file};
