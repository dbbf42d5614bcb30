//! Records come back as they were, and no bytes do harm.

use super::*;
use crate::journal::checksum::crc32c;
use proptest::prelude::*;

prop_compose! {
    fn any_time()(seconds in any::<i64>(), nanoseconds in any::<u32>()) -> Timestamp {
        Timestamp { seconds, nanoseconds }
    }
}

prop_compose! {
    fn any_version()(
        inode in any::<u64>(), size_bytes in any::<u64>(), mtime in any_time(), ctime in any_time(),
    ) -> Version {
        Version { inode, size_bytes, mtime, ctime }
    }
}

prop_compose! {
    fn any_beginning()(
        generation in any::<u64>(), key in prop::collection::vec(any::<u8>(), 0..160),
        inode in any::<u64>(), path in prop::collection::vec(1u8.., 0..300),
        base in prop::option::of(any_version()), follows in prop::option::of(1u64..), size_bytes in any::<u64>(),
        is_nameless in any::<bool>(), is_copy in any::<bool>(), uid in any::<u32>(), gid in any::<u32>(),
        groups in prop::collection::vec(any::<u32>(), 0..40),
    ) -> Beginning {
        Beginning {
            generation: Generation(generation), key: FileKey(key.into()), inode,
            path: PathBuf::from(OsStr::from_bytes(&path)), base, follows: follows.map(Generation), size_bytes, is_nameless, is_copy,
            opener: Credentials { uid, gid, groups: groups.into() },
        }
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let sum =
        (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(offset, length_bytes, checksum)| {
            BaseSum {
                offset,
                length_bytes,
                checksum,
            }
        });
    let generation = any::<u64>().prop_map(Generation);
    prop_oneof![
        any_beginning().prop_map(Record::Begin),
        (generation.clone(), any::<u64>(), any_time()).prop_map(
            |(generation, size_bytes, stamp)| Record::Size {
                generation,
                size_bytes,
                stamp
            }
        ),
        (generation.clone(), prop::collection::vec(sum, 0..20))
            .prop_map(|(generation, base)| Record::Intent { generation, base }),
        (generation.clone(), prop::option::of(any_version())).prop_map(|(generation, version)| {
            Record::Done {
                generation,
                version,
            }
        }),
        generation
            .clone()
            .prop_map(|generation| Record::Forget { generation }),
        generation
            .clone()
            .prop_map(|generation| Record::Losing { generation }),
        generation
            .clone()
            .prop_map(|generation| Record::Kept { generation }),
        (generation.clone(), prop::option::of(any_time())).prop_map(|(generation, modify_time)| {
            Record::Touch {
                generation,
                modify_time,
            }
        }),
        (generation.clone(), any_version()).prop_map(|(generation, version)| Record::Base {
            generation,
            version
        }),
        prop::collection::vec((generation.clone(), generation), 0..4)
            .prop_map(|pairs| Record::Moved { pairs }),
    ]
}

proptest! {
    #[test]
    fn records_come_back_in_their_order(records in prop::collection::vec(any_record(), 0..12)) {
        let payload: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        let decoded = decode_batch(&payload).expect("they are whole");
        let decoded: Vec<Record> = decoded.into_iter().map(|(record, _)| record).collect();
        prop_assert_eq!(decoded, records);
    }

    #[test]
    fn data_is_found_where_it_lies(
        before in any_record(), generation in any::<u64>(), offset in any::<u64>(),
        stamp in any_time(), data in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let mut payload = before.encode();
        let checksum = crc32c(&data);
        let header = Record::encode_write(Generation(generation), offset, stamp, data.len(), checksum);
        payload.extend(header);
        payload.extend(&data);
        let decoded = decode_batch(&payload).expect("it is whole");
        let (record, at) = decoded.last().expect("there are two");
        let expected = Record::Write {
            generation: Generation(generation), offset, stamp,
            length_bytes: data.len() as u32, checksum,
        };
        prop_assert_eq!(record, &expected);
        prop_assert_eq!(&payload[*at..*at + data.len()], &data[..]);
    }

    #[test]
    fn a_batch_cut_short_is_none_or_has_fewer_records(
        records in prop::collection::vec(any_record(), 1..8), part in 0.0f64..1.0,
    ) {
        let payload: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        let cut = &payload[..(payload.len() as f64 * part) as usize];
        if let Some(decoded) = decode_batch(cut) {
            prop_assert!(decoded.len() < records.len());
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = decode_batch(&bytes);
    }

    #[test]
    fn damaged_records_are_decoded_without_harm(
        records in prop::collection::vec(any_record(), 1..8), at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut payload: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = decode_batch(&payload);
    }
}
