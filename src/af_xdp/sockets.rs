//! The sockets of a link: which ones its ports need, and binding them to one memory in one mode.

use super::device::Mode;
use super::error::XdpError;
use super::ethtool::Channels;
use super::live::LivePort;
use super::options::{LinkOptions, ZeroCopy};
use super::socket::{BindError, CopyMode, QueueAddress, RingSizes, Rings, Socket, bind_action};
use super::umem::Umem;
use crate::types::PortSide;

/// Least chunks for each queue: a burst being received and one being sent.
const FRAMES_PER_QUEUE_MIN: u32 = 128;

/// What a socket is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketPlan {
    pub(super) side: PortSide,
    pub(super) queue: u32,
    pub(super) receives: bool,
    pub(super) transmits: bool,
}

/// A bound socket with its rings.
#[derive(Debug)]
pub(super) struct OpenSocket {
    pub(super) plan: SocketPlan,
    pub(super) socket: Socket,
    pub(super) rings: Rings,
}

/// All sockets of a link, and their memory.
#[derive(Debug)]
pub(super) struct OpenSockets {
    pub(super) sockets: Vec<OpenSocket>,
    pub(super) umem: Umem,
    pub(super) zero_copy: bool,
}

/// Takes the memory and binds all sockets, in zero copy where asked for and possible.
pub(super) fn open_sockets(
    options: &LinkOptions,
    ports: &[LivePort; 2],
    notes: &mut Vec<String>,
) -> Result<OpenSockets, XdpError> {
    let [inside, outside] = ports;
    let (inside_queues, outside_queues) = (inside.device.queues, outside.device.queues);
    let mut plans = socket_plans(PortSide::Inside, inside_queues, outside_queues);
    plans.extend(socket_plans(
        PortSide::Outside,
        outside_queues,
        inside_queues,
    ));
    let sizes = ring_sizes(options, &plans, notes)?;
    let umem = Umem::new(options.frames, options.frame_size, options.huge_pages)?;
    let bind = |mode| bind_all(&umem, ports, &plans, sizes, mode);
    let generic = ports.iter().find(|port| port.mode == Mode::Generic);
    let sockets = match (options.zero_copy, generic) {
        (ZeroCopy::Require, Some(port)) => {
            return Err(XdpError::ZeroCopyGeneric {
                device: port.device.name.clone(),
            });
        }
        (ZeroCopy::Require, None) => bind(CopyMode::ZeroCopy).map_err(|failed| {
            failed.into_error(|device, queue, source| XdpError::ZeroCopy {
                device,
                queue,
                source,
            })
        })?,
        (ZeroCopy::Auto, None) => match bind(CopyMode::ZeroCopy) {
            Ok(sockets) => sockets,
            Err(BindAllError {
                device,
                error: BindError::Refused(why),
                ..
            }) => {
                notes.push(format!("`{device}`: no zero copy ({why}); both ports copy"));
                bind(CopyMode::Copy).map_err(BindAllError::into_system)?
            }
            Err(failed) => return Err(failed.into_system()),
        },
        (ZeroCopy::Auto | ZeroCopy::Off, _) => {
            bind(CopyMode::Copy).map_err(BindAllError::into_system)?
        }
    };
    let zero_copy = sockets
        .iter()
        .all(|open| matches!(open.socket.copy_mode(), Ok(CopyMode::ZeroCopy)));
    Ok(OpenSockets {
        sockets,
        umem,
        zero_copy,
    })
}

/// The sockets that a port needs: one for each receive queue, and as many transmit queues as the
/// other port has receive queues, so that queue i sends what the other port's queue i received.
fn socket_plans(side: PortSide, port: Channels, other: Channels) -> Vec<SocketPlan> {
    let Channels { rx, tx } = port;
    (0..rx.max(tx.min(other.rx)))
        .map(|queue| SocketPlan {
            side,
            queue,
            receives: queue < rx,
            transmits: queue < tx,
        })
        .collect()
}

/// How large the rings are. All fill rings together hold half of the chunks at most: one that
/// could hold more would take what another queue needs, and that one would never receive.
fn ring_sizes(
    options: &LinkOptions,
    plans: &[SocketPlan],
    notes: &mut Vec<String>,
) -> Result<RingSizes, XdpError> {
    let LinkOptions {
        frames, ring_size, ..
    } = *options;
    let queues = u32::try_from(plans.len()).unwrap_or(u32::MAX);
    let needed = queues.saturating_mul(FRAMES_PER_QUEUE_MIN);
    if frames < needed {
        return Err(XdpError::FramesTooFew {
            frames,
            queues,
            needed,
        });
    }
    let share = frames / queues.max(1) / 2;
    // The largest power of two in the share, which is 64 at least.
    let fill = (1 << share.max(1).ilog2()).min(ring_size);
    if fill < ring_size {
        notes.push(format!(
            "umem.frames = {frames} gives each of {queues} queues {fill} chunks to receive into, \
             not {ring_size}; bursts are dropped sooner"
        ));
    }
    Ok(RingSizes {
        fill,
        others: ring_size,
    })
}

/// Which bind failed, and how.
#[derive(Debug)]
struct BindAllError {
    device: String,
    queue: u32,
    ifindex: u32,
    error: BindError,
}

impl BindAllError {
    fn into_error(self, refused: impl FnOnce(String, u32, std::io::Error) -> XdpError) -> XdpError {
        let Self {
            device,
            queue,
            error,
            ..
        } = self;
        match error {
            BindError::Busy => XdpError::QueueBusy { device, queue },
            BindError::Refused(source) => refused(device, queue, source),
            BindError::Other(error) => *error,
        }
    }

    fn into_system(self) -> XdpError {
        let ifindex = self.ifindex;
        self.into_error(|device, queue, source| {
            let address = QueueAddress {
                device: &device,
                ifindex,
                queue,
            };
            XdpError::system(bind_action(address), "CAP_NET_RAW", source)
        })
    }
}

/// Binds all sockets to one memory in one copy mode.
fn bind_all(
    umem: &Umem,
    ports: &[LivePort; 2],
    plans: &[SocketPlan],
    sizes: RingSizes,
    mode: CopyMode,
) -> Result<Vec<OpenSocket>, BindAllError> {
    let mut open: Vec<OpenSocket> = Vec::with_capacity(plans.len());
    for plan in plans {
        let device = &ports[plan.side.index()].device;
        let address = QueueAddress {
            device: &device.name,
            ifindex: device.ifindex,
            queue: plan.queue,
        };
        let bound = match open.first() {
            None => Socket::bind_first(umem, address, sizes, mode),
            Some(first) => first.socket.bind_further(address, sizes),
        };
        let (socket, rings) = bound.map_err(|error| BindAllError {
            device: device.name.clone(),
            queue: plan.queue,
            ifindex: device.ifindex,
            error,
        })?;
        open.push(OpenSocket {
            plan: *plan,
            socket,
            rings,
        });
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::super::options::{HugePages, OnExit, XdpMode};
    use super::*;

    /// (queue, receives, transmits) of a port with these queues beside another.
    fn plans(rx: u32, tx: u32, other_rx: u32) -> Vec<(u32, bool, bool)> {
        let other = Channels {
            rx: other_rx,
            tx: 1,
        };
        let plans = socket_plans(PortSide::Inside, Channels { rx, tx }, other);
        plans
            .into_iter()
            .map(|plan| (plan.queue, plan.receives, plan.transmits))
            .collect()
    }

    fn sizes(frames: u32, queues: usize) -> Result<RingSizes, XdpError> {
        let options = LinkOptions {
            name: "uplink".to_owned(),
            inside: "a".to_owned(),
            outside: "b".to_owned(),
            xdp_mode: XdpMode::Auto,
            zero_copy: ZeroCopy::Auto,
            on_exit: OnExit::Closed,
            frames,
            frame_size: 2048,
            huge_pages: HugePages::Off,
            ring_size: 2048,
        };
        let plan = SocketPlan {
            side: PortSide::Inside,
            queue: 0,
            receives: true,
            transmits: true,
        };
        ring_sizes(&options, &vec![plan; queues], &mut Vec::new())
    }

    #[test]
    fn fill_rings_leave_chunks_for_every_queue() {
        for (frames, queues, fill) in [
            (65_536, 2, 2048),
            (65_536, 16, 2048),
            (4096, 4, 512),
            (1024, 4, 128),
            (1024, 8, 64),
            (5000, 3, 512),
        ] {
            let sizes = sizes(frames, queues).unwrap();
            assert_eq!(
                (sizes.fill, sizes.others),
                (fill, 2048),
                "{frames} {queues}"
            );
            assert!(fill * u32::try_from(queues).unwrap() <= frames / 2);
        }
        assert!(sizes(1024, 9).is_err());
    }

    #[test]
    fn equal_ports_have_a_socket_for_each_queue() {
        assert_eq!(plans(2, 2, 2), [(0, true, true), (1, true, true)]);
    }

    #[test]
    fn a_port_sends_on_as_many_queues_as_the_other_receives_on() {
        assert_eq!(
            plans(1, 8, 3),
            [(0, true, true), (1, false, true), (2, false, true)]
        );
        assert_eq!(plans(1, 2, 3), [(0, true, true), (1, false, true)]);
    }

    #[test]
    fn a_queue_beyond_the_transmit_queues_only_receives() {
        assert_eq!(
            plans(3, 1, 1),
            [(0, true, true), (1, true, false), (2, true, false)]
        );
    }
}
