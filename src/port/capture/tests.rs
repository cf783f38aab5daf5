//! Captures of every byte order and form, good and broken, read and written.

use std::borrow::Cow;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
use pcap_file::pcapng::{Block, PcapNgBlock};

use super::*;

fn read(file: &[u8]) -> Result<Vec<CapturedFrame>, CaptureError> {
    Capture::new(file)?.collect()
}

/// A pcap file of one packet, written word by word.
fn pcap(magic: u32, link_type: u32, packet: [u32; 4], bytes: &[u8], order: Endianness) -> Vec<u8> {
    let word = |word: u32| match order {
        Endianness::Big => word.to_be_bytes(),
        Endianness::Little => word.to_le_bytes(),
    };
    let version = match order {
        Endianness::Big => [0, 2, 0, 4],
        Endianness::Little => [2, 0, 4, 0],
    };
    let mut file = word(magic).to_vec();
    file.extend(version);
    for field in [0, 0, 64, link_type].into_iter().chain(packet) {
        file.extend(word(field));
    }
    file.extend(bytes);
    file
}

/// A pcapng file of blocks in one byte order.
fn pcapng(order: Endianness, blocks: Vec<Block<'_>>) -> Vec<u8> {
    let section = SectionHeaderBlock {
        endianness: order,
        ..SectionHeaderBlock::default()
    };
    let mut writer = PcapNgWriter::with_section_header(Vec::new(), section).unwrap();
    for block in blocks {
        writer.write_block(&block).unwrap();
    }
    writer.into_inner()
}

fn interface(options: Vec<InterfaceDescriptionOption<'static>>) -> Block<'static> {
    InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 60,
        options,
    }
    .into_block()
}

/// An enhanced packet; the writer puts the time's nanoseconds into the field as they are.
fn enhanced(interface_id: u32, units: u64, original_len: u32, data: &[u8]) -> Block<'_> {
    EnhancedPacketBlock {
        interface_id,
        timestamp: Duration::from_nanos(units),
        original_len,
        data: Cow::Borrowed(data),
        options: Vec::new(),
    }
    .into_block()
}

#[test]
fn pcap_is_read_in_all_four_forms() {
    for order in [Endianness::Big, Endianness::Little] {
        for (magic, nanoseconds) in [(0xa1b2_c3d4, 7_000), (0xa1b2_3c4d, 7)] {
            let file = pcap(magic, 1, [5, 7, 3, 1500], &[1, 2, 3], order);
            let expected = CapturedFrame {
                index: 0,
                time: Duration::new(5, nanoseconds),
                original_len: 1500,
                bytes: vec![1, 2, 3],
                interface_name: None,
            };
            assert_eq!(read(&file).unwrap(), [expected]);
        }
    }
}

#[test]
fn pcapng_is_read_in_both_byte_orders() {
    for order in [Endianness::Big, Endianness::Little] {
        let name = |name: &'static str| InterfaceDescriptionOption::IfName(Cow::Borrowed(name));
        let file = pcapng(
            order,
            vec![
                interface(vec![name("eth1")]),
                interface(vec![name("eth2"), InterfaceDescriptionOption::IfTsResol(9)]),
                enhanced(0, 5_000_007, 3, &[1, 2, 3]),
                enhanced(1, 5_000_000_007, 99, &[4, 5, 6, 7]),
            ],
        );
        let frames = read(&file).unwrap();
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].time, Duration::new(5, 7_000));
        assert_eq!(frames[0].interface_name.as_deref(), Some("eth1"));
        assert_eq!(
            (frames[0].original_len, &frames[0].bytes[..]),
            (3, &[1, 2, 3][..])
        );
        assert_eq!(frames[1].time, Duration::new(5, 7));
        assert_eq!(frames[1].interface_name.as_deref(), Some("eth2"));
        assert_eq!((frames[1].original_len, frames[1].index), (99, 1));
    }
}

#[test]
fn pcapng_time_units_and_offsets_are_applied() {
    let time = |options: Vec<InterfaceDescriptionOption<'static>>, units: u64| {
        let file = pcapng(
            Endianness::Little,
            vec![interface(options), enhanced(0, units, 3, &[1, 2, 3])],
        );
        read(&file).map(|frames| frames[0].time)
    };
    let resolution = InterfaceDescriptionOption::IfTsResol;
    let offset = |seconds: i64| InterfaceDescriptionOption::IfTsOffset(seconds.cast_unsigned());
    assert_eq!(
        time(vec![resolution(0)], 5).unwrap(),
        Duration::from_secs(5)
    );
    assert_eq!(
        time(vec![resolution(3)], 5).unwrap(),
        Duration::from_millis(5)
    );
    assert_eq!(
        time(vec![resolution(12)], 5_000).unwrap(),
        Duration::from_nanos(5)
    );
    assert_eq!(
        time(vec![resolution(0x80 | 10)], 1536).unwrap(),
        Duration::from_millis(1500)
    );
    assert_eq!(
        time(vec![resolution(127)], u64::MAX).unwrap(),
        Duration::ZERO
    );
    assert_eq!(
        time(vec![resolution(255)], u64::MAX).unwrap(),
        Duration::ZERO
    );
    assert_eq!(
        time(vec![resolution(0), offset(10)], 5).unwrap(),
        Duration::from_secs(15)
    );
    assert_eq!(
        time(vec![resolution(0), offset(-4)], 5).unwrap(),
        Duration::from_secs(1)
    );
    let before_the_epoch = time(vec![resolution(0), offset(-6)], 5);
    assert!(matches!(
        before_the_epoch,
        Err(CaptureError::Broken { index: 0, .. })
    ));
    let after_all_time = time(vec![resolution(0), offset(i64::MAX)], u64::MAX);
    assert!(matches!(
        after_all_time,
        Err(CaptureError::Broken { index: 0, .. })
    ));
}

#[test]
fn simple_packets_have_the_time_before_and_the_snap_length() {
    let data = [9; 60];
    let simple = |original_len| {
        SimplePacketBlock {
            original_len,
            data: Cow::Borrowed(&data),
        }
        .into_block()
    };
    let blocks = vec![
        interface(vec![]),
        enhanced(0, 5, 3, &[1, 2, 3]),
        simple(1500),
        simple(9),
    ];
    let frames = read(&pcapng(Endianness::Little, blocks)).unwrap();
    assert_eq!(frames[1].time, Duration::from_micros(5));
    assert_eq!((frames[1].original_len, frames[1].bytes.len()), (1500, 60));
    assert_eq!((frames[2].original_len, frames[2].bytes.len()), (9, 9));
}

#[test]
fn interfaces_of_one_section_are_not_those_of_the_next() {
    let mut file = pcapng(Endianness::Little, vec![interface(vec![])]);
    file.extend(pcapng(Endianness::Big, vec![]));
    let error = read(&file).map(|frames| frames.len());
    assert_eq!(
        error.unwrap(),
        0,
        "another byte order in the second section"
    );
    let mut file = pcapng(Endianness::Little, vec![interface(vec![])]);
    file.extend(pcapng(Endianness::Little, vec![]));
    // The writer refuses a packet of an unknown interface: take its bytes from a good file.
    let whole = pcapng(
        Endianness::Little,
        vec![interface(vec![]), enhanced(0, 5, 3, &[1, 2, 3])],
    );
    let packet_at = pcapng(Endianness::Little, vec![interface(vec![])]).len();
    file.extend(&whole[packet_at..]);
    assert!(matches!(
        read(&file),
        Err(CaptureError::Broken { index: 0, .. })
    ));
}

#[test]
fn other_link_types_are_named() {
    let file = pcap(0xa1b2_c3d4, 113, [0, 0, 0, 0], &[], Endianness::Big);
    let error = read(&file).unwrap_err().to_string();
    assert!(
        error.contains("113") && error.contains("LINUX_SLL"),
        "{error}"
    );
    let sll = InterfaceDescriptionBlock {
        linktype: DataLink::LINUX_SLL,
        snaplen: 0,
        options: vec![],
    };
    // Only a packet of such an interface is an error.
    let alone = pcapng(Endianness::Little, vec![sll.clone().into_block()]);
    assert_eq!(read(&alone).unwrap(), []);
    let used = vec![sll.into_block(), enhanced(0, 5, 3, &[1, 2, 3])];
    let error = read(&pcapng(Endianness::Little, used)).unwrap_err();
    assert!(
        matches!(error, CaptureError::LinkType { number: 113, .. }),
        "{error}"
    );
}

#[test]
fn broken_files_name_the_packet() {
    assert!(matches!(read(&[]), Err(CaptureError::NotACapture)));
    assert!(matches!(
        read(b"GIF89a and so on"),
        Err(CaptureError::NotACapture)
    ));
    let good = pcap(0xa1b2_c3d4, 1, [5, 7, 3, 3], &[1, 2, 3], Endianness::Little);
    assert!(matches!(
        read(&good[..20]),
        Err(CaptureError::Cut { index: 0 })
    ));
    let mut two = good.clone();
    two.extend(&good[24..]);
    assert_eq!(read(&two).unwrap().len(), 2);
    assert!(matches!(
        read(&two[..two.len() - 1]),
        Err(CaptureError::Cut { index: 1 })
    ));
    let longer = pcap(0xa1b2_c3d4, 1, [5, 7, 3, 2], &[1, 2, 3], Endianness::Little);
    assert!(matches!(
        read(&longer),
        Err(CaptureError::Broken { index: 0, .. })
    ));
    let huge = pcap(
        0xa1b2_c3d4,
        1,
        [5, 7, u32::MAX, u32::MAX],
        &[1, 2, 3],
        Endianness::Little,
    );
    assert!(matches!(read(&huge), Err(CaptureError::Cut { index: 0 })));
    let blocks = vec![interface(vec![]), enhanced(0, 5, 3, &[1, 2, 3])];
    let good = pcapng(Endianness::Little, blocks);
    assert!(matches!(
        read(&good[..good.len() - 4]),
        Err(CaptureError::Cut { index: 0 })
    ));
}

#[test]
fn reading_ends_at_the_first_error() {
    let mut file = pcap(0xa1b2_c3d4, 1, [5, 7, 3, 2], &[1, 2, 3], Endianness::Little);
    let good = pcap(0xa1b2_c3d4, 1, [5, 7, 3, 3], &[1, 2, 3], Endianness::Little);
    file.extend(&good[24..]);
    let mut capture = Capture::new(&file[..]).unwrap();
    assert!(capture.next().unwrap().is_err());
    assert!(capture.next().is_none());
}

#[test]
fn changed_files_never_panic() {
    let name = InterfaceDescriptionOption::IfName(Cow::Borrowed("eth1"));
    let blocks = vec![
        interface(vec![name, InterfaceDescriptionOption::IfTsResol(9)]),
        enhanced(0, 5, 3, &[1, 2, 3]),
        enhanced(0, 6, 300, &[4; 50]),
    ];
    let files = [
        pcapng(Endianness::Little, blocks.clone()),
        pcapng(Endianness::Big, blocks),
        pcap(0xa1b2_c3d4, 1, [5, 7, 3, 3], &[1, 2, 3], Endianness::Little),
    ];
    for file in &files {
        assert!(!read(file).unwrap().is_empty());
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = file.clone();
                changed[at] = value;
                match read(&changed) {
                    Ok(frames) => assert!(frames.len() <= 2),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
            if let Ok(frames) = read(&file[..at]) {
                assert!(frames.len() < 2, "cut at {at}");
            }
        }
    }
}

#[test]
fn what_is_written_is_read_again() {
    let frames = [
        CapturedFrame {
            index: 0,
            time: Duration::new(u32::MAX.into(), 999_999_999),
            original_len: 300_000,
            bytes: vec![7; 270_000],
            interface_name: None,
        },
        CapturedFrame {
            index: 1,
            time: Duration::ZERO,
            original_len: 0,
            bytes: vec![],
            interface_name: None,
        },
    ];
    let mut writer = CaptureWriter::new(Vec::new()).unwrap();
    for frame in &frames {
        writer.write(frame).unwrap();
    }
    assert_eq!(read(&writer.finish().unwrap()).unwrap(), frames);
}

#[test]
fn times_after_2106_are_not_written() {
    let mut writer = CaptureWriter::new(Vec::new()).unwrap();
    let frame = CapturedFrame {
        index: 4,
        time: Duration::from_secs(1 << 32),
        original_len: 0,
        bytes: vec![],
        interface_name: None,
    };
    assert!(matches!(
        writer.write(&frame),
        Err(CaptureError::Broken { index: 4, .. })
    ));
}
