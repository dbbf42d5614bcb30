//! Headers as bytes.

use super::*;
use proptest::prelude::*;

prop_compose! {
    fn membership()(
        journal in any::<[u8; 16]>(), epoch in any::<u64>(), device_set in any::<u64>(),
    ) -> Membership {
        Membership { journal, epoch, device_set }
    }
}

prop_compose! {
    fn progress()(acknowledged in any::<u64>(), trimmed in any::<u64>()) -> Progress {
        Progress { acknowledged: Sequence(acknowledged), trimmed: Sequence(trimmed) }
    }
}

prop_compose! {
    fn stripe()(
        data in any::<u8>(), parity in any::<u8>(), batch_bytes in any::<u32>(),
        shard_bytes in any::<u32>(), batch_checksum in any::<u64>(),
    ) -> Stripe {
        Stripe { data, parity, batch_bytes, shard_bytes, batch_checksum }
    }
}

prop_compose! {
    fn frame()(
        membership in membership(), progress in progress(), life in any::<u64>(),
        sequence in any::<u64>(), index in any::<u8>(), stripe in stripe(),
        payload_checksum in any::<u64>(),
    ) -> FrameHeader {
        FrameHeader {
            membership, index, stripe, progress, life: SegmentLife(life),
            sequence: Sequence(sequence), payload_checksum,
        }
    }
}

fn segment(frame: &FrameHeader, first: u64, before: u64) -> SegmentHeader {
    SegmentHeader {
        membership: frame.membership,
        spread: Spread {
            data: frame.stripe.data,
            parity: frame.stripe.parity,
        },
        device: frame.index,
        life: frame.life,
        first: Sequence(first),
        before: Sequence(before),
        is_first_format: false,
        progress: frame.progress,
    }
}

proptest! {
    #[test]
    fn headers_come_back_and_one_flipped_bit_or_a_lost_byte_is_noticed(
        frame in frame(), first in any::<u64>(), before in any::<u64>(),
        bit in 0usize..FRAME_HEADER_BYTES * 8, length in 0usize..FRAME_HEADER_BYTES,
    ) {
        let segment = segment(&frame, first, before);
        prop_assert_eq!(FrameHeader::decode(&frame.encode()), Ok(frame));
        prop_assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
        prop_assert_eq!(SegmentHeader::decode(&frame.encode()), Err(Unreadable::Garbled));
        let (mut frame, mut segment) = (frame.encode(), segment.encode());
        prop_assert_eq!(FrameHeader::decode(&frame[..length]), Err(Unreadable::Garbled));
        frame[bit / 8] ^= 1 << (bit % 8);
        segment[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(FrameHeader::decode(&frame).is_err());
        prop_assert!(SegmentHeader::decode(&segment).is_err());
    }

    #[test]
    fn any_bytes_are_looked_at_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = FrameHeader::decode(&bytes);
        let _ = SegmentHeader::decode(&bytes);
    }

    #[test]
    fn headers_of_the_first_format_are_read_as_copies_in_order(
        frame in frame(), first in 1..u64::MAX,
    ) {
        let mut bytes = frame.encode();
        to_first_format(&mut bytes);
        let read = FrameHeader::decode(&bytes).expect("it is read");
        prop_assert_eq!(read.stripe.batch_checksum, frame.payload_checksum);
        let mut bytes = segment(&frame, first, 0).encode();
        to_first_format(&mut bytes);
        let read = SegmentHeader::decode(&bytes).expect("it is read");
        prop_assert!(read.is_first_format);
        prop_assert_eq!(read.before, Sequence(first - 1));
    }
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let frame = FrameHeader {
        membership: Membership {
            journal: [7; 16],
            epoch: 1,
            device_set: 1,
        },
        index: 0,
        stripe: Spread::ALONE.stripe(b"some"),
        life: SegmentLife(1),
        sequence: Sequence(1),
        progress: Progress::default(),
        payload_checksum: 0,
    };
    let mut bytes = frame.encode();
    bytes[12..14].copy_from_slice(&(JOURNAL_FORMAT + 1).to_le_bytes());
    seal(&mut bytes);
    let newer = Err(Unreadable::Newer(JOURNAL_FORMAT + 1));
    assert_eq!(FrameHeader::decode(&bytes), newer);
}
