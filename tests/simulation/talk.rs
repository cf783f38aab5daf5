//! Hosts that talk: little state machines of TCP, UDP, ICMP and another protocol, one message
//! under way at a time, repeated when it is late.

use std::net::IpAddr;

use portcullis::packet::Address;
use portcullis::packet::build::{self, FrameBuilder};
use portcullis::types::PortSide;

use crate::policies::{HOSTS, host};
use crate::random::Random;

/// Bytes of one message.
const MESSAGE_LEN: u32 = 10;
/// Bytes of one that may be cut in pieces, where the protocol does not count them.
const LARGE_LEN: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Echo,
    Other,
}

/// A client and a server.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    kind: Kind,
    pub(crate) link: usize,
    pub(crate) vlan: Option<u16>,
    pub(crate) client_side: PortSide,
    pub(crate) client: Address,
    pub(crate) server: Address,
    pub(crate) client_port: u16,
    pub(crate) server_port: u16,
    sequences: [u32; 2],
    /// Bytes of a piece, where its messages go in pieces.
    pub(crate) piece_len: Option<usize>,
    /// Questions that are asked.
    rounds: u32,
    /// The message that is under way; the client has the even ones.
    pub(crate) step: u32,
    /// When it is sent again.
    pub(crate) again_ns: u64,
    pub(crate) tries: u32,
}

pub(crate) fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// A host outside.
pub(crate) fn stranger(random: &mut Random, is_v6: bool) -> Address {
    let number = random.below(6) + 1;
    address(&match (is_v6, random.once_in(4)) {
        (false, false) => format!("192.0.2.{number}"),
        (false, true) => format!("198.51.100.{number}"),
        (true, false) => format!("2001:db8:f::{number}"),
        (true, true) => format!("2001:db8:e::{number}"),
    })
}

impl Talk {
    pub(crate) fn new(random: &mut Random, links: usize) -> Self {
        let link = random.below(links);
        let is_v6 = random.once_in(3);
        let inside = address(&host(link, random.below(HOSTS))[usize::from(is_v6)]);
        let outside = stranger(random, is_v6);
        let client_side = *random.pick(&PortSide::ALL);
        let (client, server) = match client_side {
            PortSide::Inside => (inside, outside),
            PortSide::Outside => (outside, inside),
        };
        let kind = *random.pick(&[
            Kind::Tcp,
            Kind::Tcp,
            Kind::Tcp,
            Kind::Udp,
            Kind::Udp,
            Kind::Echo,
            Kind::Other,
        ]);
        Self {
            kind,
            link,
            vlan: random.once_in(10).then_some(20),
            client_side,
            client,
            server,
            // Few, so that connections follow each other on the same ports.
            client_port: random.port(40_000, 30),
            server_port: *random.pick(&[80, 80, 443, 22, 8010, 53, 53, 9999]),
            sequences: [random.number(u32::MAX), random.number(u32::MAX)],
            piece_len: random.once_in(4).then(|| *random.pick(&[8, 24, 24, 32])),
            rounds: 1 + random.number(6),
            step: 0,
            again_ns: 0,
            tries: 0,
        }
    }

    /// How many messages it has.
    pub(crate) fn len(&self) -> u32 {
        match self.kind {
            // Two of the handshake and three of the close.
            Kind::Tcp => 2 * self.rounds + 5,
            Kind::Udp | Kind::Echo | Kind::Other => 2 * self.rounds,
        }
    }

    /// The side of the one who sends a message.
    pub(crate) fn side_of(&self, message: u32) -> PortSide {
        match message % 2 {
            0 => self.client_side,
            _ => self.client_side.opposite(),
        }
    }

    /// A frame from one end to the other, without a transport.
    pub(crate) fn frame(&self, is_client: bool) -> FrameBuilder {
        let frame = match is_client {
            true => build::between(self.client, self.server),
            false => build::between(self.server, self.client),
        };
        match self.vlan {
            Some(vlan) => frame.vlan(vlan),
            None => frame,
        }
    }

    /// A message.
    pub(crate) fn message(&self, message: u32) -> FrameBuilder {
        let is_client = message.is_multiple_of(2);
        let frame = self.frame(is_client);
        let (from, to) = match is_client {
            true => (self.client_port, self.server_port),
            false => (self.server_port, self.client_port),
        };
        let short = u16::try_from(message / 2).unwrap();
        let frame = match self.piece_len {
            Some(_) => frame.payload_len(LARGE_LEN),
            None => frame.payload(&message.to_be_bytes()),
        };
        match self.kind {
            Kind::Tcp => self.segment(frame.payload(&[]).tcp(from, to), message),
            Kind::Udp => frame.udp(from, to),
            Kind::Echo if is_client => frame.echo_request(self.client_port, short),
            Kind::Echo => frame.echo_reply(self.client_port, short),
            Kind::Other => frame.protocol(47),
        }
    }

    fn segment(&self, frame: FrameBuilder, message: u32) -> FrameBuilder {
        let is_client = message.is_multiple_of(2);
        let me = usize::from(!is_client);
        let begun = |end: usize, len: u32| self.sequences[end].wrapping_add(1).wrapping_add(len);
        match message {
            0 => return frame.syn().sequence(self.sequences[0]),
            1 => {
                let answer = frame.syn().sequence(self.sequences[1]);
                return answer.acknowledgment(begun(0, 0));
            }
            _ => {}
        }
        let round = (message / 2 - 1).min(self.rounds);
        let mine = begun(me, round * MESSAGE_LEN);
        let heard = round + u32::from(!is_client);
        let its = begun(1 - me, heard.min(self.rounds) * MESSAGE_LEN);
        let (first_fin, last_fin) = (2 * self.rounds + 2, 2 * self.rounds + 3);
        match message {
            m if m < first_fin => {
                let data = frame.sequence(mine).acknowledgment(its);
                data.payload_len(usize::try_from(MESSAGE_LEN).unwrap())
            }
            m if m == first_fin => frame.fin().sequence(mine).acknowledgment(its),
            m if m == last_fin => {
                let fin = frame.fin().sequence(mine);
                fin.acknowledgment(its.wrapping_add(1))
            }
            _ => {
                let last = frame.sequence(mine.wrapping_add(1));
                last.acknowledgment(its.wrapping_add(1))
            }
        }
    }

    /// A segment of its ports with flags and numbers of somebody else.
    pub(crate) fn forged(&self, random: &mut Random) -> (PortSide, FrameBuilder) {
        let message = random.number(2);
        let (from, to) = match message {
            0 => (self.client_port, self.server_port),
            _ => (self.server_port, self.client_port),
        };
        let near = self.sequences[message as usize].wrapping_add(random.number(200));
        let far = random.number(u32::MAX);
        let frame = self.frame(message == 0).tcp(from, to).flags(random.byte());
        let frame = frame
            .sequence(*random.pick(&[near, far]))
            .window(random.port(0, 60_000));
        let frame = match random.once_in(2) {
            true => frame.acknowledgment(random.number(u32::MAX)),
            false => frame,
        };
        (self.side_of(message), frame)
    }
}
