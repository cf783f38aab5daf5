//! Deals queues and chunks to workers.

use crate::af_xdp::{Link, LinkQueue, XdpQueue};
use crate::port::ChunkAddr;
use crate::types::{LinkId, WorkerId};
use crate::worker::{ChunkHomes, OwnQueue, Routes};

/// Who has what.
pub(super) struct Deal {
    /// Queues, by worker.
    pub(super) queues: Vec<Vec<OwnQueue<XdpQueue>>>,
    /// Who may send where.
    pub(super) routes: Routes,
    /// Whose the chunks are, by link.
    pub(super) homes: Vec<ChunkHomes>,
    /// Free chunks, by worker and link; each with room for all that are at home there.
    pub(super) free: Vec<Vec<Vec<ChunkAddr>>>,
    /// How many chunks of all links are at home with each worker.
    pub(super) chunks_at_home: Vec<usize>,
}

/// Queue i of every port goes to worker i mod N; a link's chunks to the workers that receive on it.
pub(super) fn deal(links: &mut [Link], workers: usize) -> Deal {
    let mut deal = Deal {
        queues: (0..workers).map(|_| Vec::new()).collect(),
        routes: Routes::default(),
        homes: Vec::new(),
        free: vec![Vec::new(); workers],
        chunks_at_home: vec![0; workers],
    };
    for (index, link) in links.iter_mut().enumerate() {
        let link_id = LinkId(u8::try_from(index).unwrap_or(u8::MAX));
        let mut receivers: Vec<WorkerId> = Vec::new();
        let mut senders: [Vec<WorkerId>; 2] = [Vec::new(), Vec::new()];
        for queue in link.take_queues() {
            let worker = queue.queue as usize % workers;
            let id = WorkerId(u16::try_from(worker).unwrap_or(u16::MAX));
            if queue.receives && !receivers.contains(&id) {
                receivers.push(id);
            }
            let senders = &mut senders[queue.side.index()];
            if queue.transmits && !senders.contains(&id) {
                senders.push(id);
            }
            deal.queues[worker].push(own_queue(link_id, queue));
        }
        receivers.sort();
        let umem = link.umem();
        let homes = ChunkHomes::new(umem.frames(), umem.frame_size(), receivers);
        for free in &mut deal.free {
            free.push(Vec::new());
        }
        for chunk in umem.chunks() {
            let home = homes.home(chunk).index();
            deal.free[home][index].push(chunk);
            deal.chunks_at_home[home] += 1;
        }
        deal.homes.push(homes);
        deal.routes.senders.push(senders);
    }
    deal
}

fn own_queue(link: LinkId, queue: LinkQueue) -> OwnQueue<XdpQueue> {
    let LinkQueue {
        side,
        queue,
        receives,
        transmits,
        port,
    } = queue;
    OwnQueue {
        link,
        side,
        queue,
        receives,
        transmits,
        port,
    }
}
