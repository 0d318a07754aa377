use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::sample::{Sample, text};
use super::*;

fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    read(bytes, bytes.len() as u64)
}

fn complaint(sample: &Sample) -> String {
    parse(&sample.bytes()).expect_err("a fault").to_string()
}

#[test]
fn a_well_formed_head_is_told_in_full() {
    let bytes = Sample::llama().bytes();
    let header = parse(&bytes).unwrap();
    assert_eq!(header.architecture, "llama");
    assert_eq!(header.name.as_deref(), Some("Sample"));
    assert_eq!(header.context_length, Some(1024));
    assert_eq!(header.block_count, Some(2));
    assert_eq!(header.head_count, Some(PerLayer::Same(4)));
    assert_eq!(header.head_count_kv, Some(PerLayer::Each(vec![2, 1])));
    assert_eq!(
        (header.file_type, header.quantisation),
        (Some(7), Some("Q8_0"))
    );
    assert_eq!(header.vocab_size, Some(3));
    assert_eq!(
        (header.bos, header.eos, header.add_bos),
        (None, Some(2), Some(false))
    );
    let templates = ["{{ messages }}", "{{ tools }}"];
    assert_eq!(
        header
            .chat_templates
            .iter()
            .map(|t| &*t.source)
            .collect::<Vec<_>>(),
        templates
    );
    assert_eq!(header.chat_templates[1].name.as_deref(), Some("tool_use"));
    assert_eq!(header.tensors, 2);
    assert_eq!(header.parameters, 64 * 3 + 64);
    assert_eq!(header.tensor_bytes, 6 * 34 + 64 * 4);
    assert_eq!(header.data_offset + 224 + 256, bytes.len() as u64);
}

#[test]
fn what_is_not_gguf_is_called_so() {
    for bytes in [&b""[..], b"GG", b"<!DOCTYPE html>", b"FUGG\x03\0\0\0"] {
        assert!(
            matches!(parse(bytes), Err(GgufError::NotGguf { .. })),
            "{bytes:?}"
        );
    }
    for version in [0, 1, 4, 3u32.swap_bytes()] {
        let bytes = [b"GGUF", &version.to_le_bytes()[..], &[0; 16]].concat();
        assert_eq!(parse(&bytes), Err(GgufError::Version(version)));
    }
}

#[test]
fn each_rule_of_the_format_is_held() {
    let sample = Sample::llama;
    let huge = u64::MAX / 2;
    for (sample, expected) in [
        (
            Sample::empty().tensor("t", &[1], 0),
            "general.architecture is missing",
        ),
        (
            Sample::empty().u32("general.architecture", 1),
            "general.architecture is missing",
        ),
        (sample().u32("", 1), "a key is empty"),
        (sample().u32("general.file_type", 1), "a key comes twice"),
        (sample().pair("llama.x", 13, &[]), "value type 13"),
        (sample().array("llama.x", 9, 1, &[4; 12]), "value type 9"),
        (sample().array("llama.x", 4, huge, &[]), "an array needs"),
        (
            sample().array("llama.x", 8, huge, &[]),
            "an array of strings needs",
        ),
        (
            sample().pair("llama.x", 8, &huge.to_le_bytes()),
            "a value needs",
        ),
        (
            sample().u32("general.alignment", 0),
            "general.alignment is 0",
        ),
        (
            sample().u32("general.alignment", 48),
            "general.alignment is 48",
        ),
        (
            sample().pair("general.alignment", 10, &[32, 0, 0, 0, 0, 0, 0, 0]),
            "not a u32",
        ),
        (sample().u32("split.no", 1), "do not fit together"),
        (
            sample().u32("split.no", 2).u32("split.count", 2),
            "do not fit together",
        ),
        (
            Sample::empty()
                .string("general.architecture", "m")
                .u32("m.block_count", 513),
            "more than 512",
        ),
        (
            sample().tensor("output_norm.weight", &[1], 0),
            "comes twice",
        ),
        (
            sample().tensor(&"t".repeat(64), &[1], 0),
            "64 bytes, at most 63",
        ),
        (sample().tensor("t", &[], 0), "0 dimensions"),
        (sample().tensor("t", &[1; 5], 0), "5 dimensions"),
        (sample().tensor_at("t", &[4, 0], 0, 480), "dimension 1 is 0"),
        (
            sample().tensor_at("t", &[huge, 4], 0, 480),
            "more than 2^63",
        ),
        (sample().tensor_at("t", &[huge], 0, 480), "more than 2^64"),
        (
            sample().tensor_at("t", &[32], 4, 480),
            "type 4 is not known",
        ),
        (
            sample().tensor_at("t", &[32], 1000, 480),
            "type 1000 is not known",
        ),
        (sample().tensor_at("t", &[33], 8, 480), "rows of 33"),
        (
            sample().tensor_at("t", &[32], 0, 448),
            "offset 448, the tensor before ends at 480",
        ),
        (
            sample().tensor_at("t", &[32], 0, 512),
            "offset 512, the tensor before ends at 480",
        ),
        (
            sample().tensor_at("t", &[1 << 40], 0, 480),
            "tensor 't' needs",
        ),
        (
            sample().tensor_at("t", &[64], 0, 480),
            "the tensors' data needs",
        ),
    ] {
        let found = complaint(&sample);
        assert!(found.contains(expected), "{found}, not {expected}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = Sample::llama().bytes();
    for end in 0..bytes.len() {
        let cut = parse(&bytes[..end]);
        let named = matches!(
            cut,
            Err(GgufError::Truncated { .. } | GgufError::NotGguf { .. })
        );
        assert!(named, "cut at {end}: {cut:?}");
        // Cut while it is read: the size is what it was.
        let data = parse(&bytes).unwrap().data_offset;
        if (end as u64) < data - 31 {
            assert!(
                read(&bytes[..end], bytes.len() as u64).is_err(),
                "shrunk to {end}"
            );
        }
    }
}

#[test]
fn a_second_part_may_hold_tensors_only() {
    let part = Sample::empty()
        .u32("split.no", 1)
        .u32("split.count", 2)
        .tensor("t", &[32], 8);
    let header = parse(&part.bytes()).unwrap();
    assert_eq!(
        header.split,
        Some(Split {
            number: 1,
            count: 2
        })
    );
    assert_eq!(header.tensor_bytes, 34);
}

/// What an accepted head may claim, whatever the bytes were.
fn check(bytes: &[u8]) {
    if let Ok(header) = parse(bytes) {
        let size = bytes.len() as u64;
        assert!(header.tensor_bytes <= size);
        assert!(header.tensors == 0 || header.data_offset <= size);
        assert!(header.parameters <= size.saturating_mul(8));
        assert!(header.block_count.unwrap_or(0) <= PerLayer::MOST);
        assert!(
            header
                .chat_templates
                .iter()
                .all(|t| t.source.len() <= bytes.len())
        );
    }
}

#[test]
fn every_bit_may_be_wrong() {
    let bytes = Sample::llama().bytes();
    for at in 0..bytes.len() {
        for wrong in [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            bytes[at] ^ 1,
            bytes[at].wrapping_add(1),
        ] {
            let mut bytes = bytes.clone();
            bytes[at] = wrong;
            check(&bytes);
        }
    }
}

/// Numbers that overflow, allocate or loop where a reader trusts them.
const HOSTILE: [u64; 9] = [
    0,
    1,
    u32::MAX as u64,
    1 << 31,
    1 << 40,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 7,
    u64::MAX,
];

#[test]
fn ten_thousand_hostile_heads_are_read_in_no_time() {
    let well_formed = Sample::llama().bytes();
    let mut rng = SmallRng::seed_from_u64(0x6767_7566);
    let started = Instant::now();
    for _ in 0..10_000 {
        let mut bytes = well_formed.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..5) {
                0 => bytes[at] = rng.random(),
                1 => bytes.truncate(at.max(1)),
                2 => {
                    let number = HOSTILE[rng.random_range(0..HOSTILE.len())].to_le_bytes();
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number[..end - at]);
                }
                3 => {
                    let again = bytes[at..].to_vec();
                    bytes.extend(again);
                }
                _ => drop(bytes.drain(at..(at + 13).min(bytes.len()))),
            }
            if bytes.is_empty() {
                break;
            }
        }
        check(&bytes);
    }
    // Some 4 µs each unoptimised on a slow core; a loop over a claimed length would take years.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

proptest! {
    #[test]
    fn noise_behind_the_magic_is_survived(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&[b"GGUF\x03\0\0\0".as_slice(), &noise].concat());
        let key = text("general.architecture");
        let head = [b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0".as_slice(), &key, &noise];
        check(&head.concat());
    }

    #[test]
    fn written_values_are_read_back(
        name in "[a-zA-Z0-9 é]{0,40}",
        context: u32,
        heads in proptest::collection::vec(0u32..1000, 1..64),
        rows in 1u64..9,
    ) {
        let sample = Sample::empty()
            .string("general.architecture", "any")
            .string("general.name", &name)
            .u32("any.context_length", context)
            .numbers("any.attention.head_count_kv", &heads)
            .tensor("t", &[64, rows], 8);
        let header = parse(&sample.bytes()).unwrap();
        prop_assert_eq!(header.name, Some(name));
        prop_assert_eq!(header.context_length, Some(context));
        prop_assert_eq!(header.head_count_kv, Some(PerLayer::Each(heads)));
        prop_assert_eq!(header.tensor_bytes, rows * 68);
    }
}
