//! The configuration in the words of the modules that it configures.

use crate::af_xdp::{self, LinkOptions};
use crate::config::{self, Config};
use crate::conntrack::{PerInterface, ShardConfig, TcpPickup, Timeouts};
use crate::pipeline::{
    ExemptPort, ExemptRules, IcmpErrors, LinkRules, OnRuleRemoved, PipelineConfig, PortProtocol,
    Unregistered,
};
use crate::worker::IdlePolicy;

/// What the packet path reads of the configuration.
#[must_use]
pub fn pipeline_config(config: &Config) -> PipelineConfig {
    let links = config.links.iter().map(|link| LinkRules {
        unregistered: match link.unregistered {
            config::Unregistered::Drop => Unregistered::Drop,
            config::Unregistered::Pass => Unregistered::Pass,
        },
    });
    let ports = config.exempt.ports.iter().map(|exempt| ExemptPort {
        protocol: match exempt.protocol {
            config::PortProtocol::Tcp => PortProtocol::Tcp,
            config::PortProtocol::Udp => PortProtocol::Udp,
        },
        port: exempt.port,
    });
    PipelineConfig {
        icmp_errors: match config.conntrack.icmp_errors {
            config::IcmpErrors::Related => IcmpErrors::Related,
            config::IcmpErrors::Rules => IcmpErrors::Rules,
        },
        on_rule_removed: match config.conntrack.on_rule_removed {
            config::OnRuleRemoved::Keep => OnRuleRemoved::Keep,
            config::OnRuleRemoved::Revalidate => OnRuleRemoved::Revalidate,
        },
        links: links.collect(),
        exempt: ExemptRules::new(
            config.exempt.addresses.clone(),
            ports.collect(),
            config.exempt.ethertypes.clone(),
        ),
    }
}

/// One of `shards` equal shards.
#[must_use]
pub fn shard_config(conntrack: &config::Conntrack, shards: u32, seed: [u64; 2]) -> ShardConfig {
    let times = &conntrack.timeouts;
    ShardConfig {
        max_flows: conntrack.max_flows.div_ceil(shards.max(1)),
        per_interface: per_interface(conntrack.per_interface, shards),
        timeouts: Timeouts {
            tcp_syn_sent: times.tcp_syn_sent,
            tcp_syn_received: times.tcp_syn_received,
            tcp_established: times.tcp_established,
            tcp_closing: times.tcp_closing,
            tcp_time_wait: times.tcp_time_wait,
            tcp_reset: times.tcp_reset,
            udp: times.udp,
            udp_stream: times.udp_stream,
            icmp: times.icmp,
            other: times.other,
            fragment: times.fragment,
        },
        tcp_pickup: match conntrack.tcp_pickup {
            config::TcpPickup::Rules => TcpPickup::Rules,
            config::TcpPickup::SynOnly => TcpPickup::SynOnly,
        },
        tcp_strict: conntrack.tcp_strict,
        seed,
    }
}

/// The share of one of `shards`. Flows are counted in any case: a policy may give an interface a
/// limit at any time, and what it has by then counts.
fn per_interface(limits: config::PerInterface, shards: u32) -> PerInterface {
    let limits = PerInterface {
        max_flows: limits.max_flows,
        new_per_second: limits.new_per_second,
    };
    match limits == PerInterface::default() {
        true => PerInterface::COUNTED,
        false => limits.divided(shards),
    }
}

pub(super) fn idle_policy(idle: config::Idle) -> IdlePolicy {
    match idle {
        config::Idle::Spin => IdlePolicy::Spin,
        config::Idle::Adaptive => IdlePolicy::Adaptive,
        config::Idle::Sleep => IdlePolicy::Sleep,
    }
}

/// Descriptors of each ring: 2048 is what drivers default to, and covers 0.5 ms at 4 Mpps.
const RING_SIZE: u32 = 2048;

pub(super) fn link_options(link: &config::Link, umem: &config::Umem) -> LinkOptions {
    LinkOptions {
        name: link.name.clone(),
        inside: link.inside.clone(),
        outside: link.outside.clone(),
        xdp_mode: match link.xdp_mode {
            config::XdpMode::Auto => af_xdp::XdpMode::Auto,
            config::XdpMode::Native => af_xdp::XdpMode::Native,
            config::XdpMode::Generic => af_xdp::XdpMode::Generic,
        },
        zero_copy: match link.zero_copy {
            config::CopyMode::Auto => af_xdp::ZeroCopy::Auto,
            config::CopyMode::Require => af_xdp::ZeroCopy::Require,
            config::CopyMode::Off => af_xdp::ZeroCopy::Off,
        },
        on_exit: match link.on_exit {
            config::OnExit::Closed => af_xdp::OnExit::Closed,
            config::OnExit::Open => af_xdp::OnExit::Open,
        },
        frames: umem.frames,
        frame_size: umem.frame_size,
        huge_pages: match umem.huge_pages {
            config::HugePages::Auto => af_xdp::HugePages::Auto,
            config::HugePages::Require => af_xdp::HugePages::Require,
            config::HugePages::Off => af_xdp::HugePages::Off,
        },
        ring_size: RING_SIZE,
    }
}
