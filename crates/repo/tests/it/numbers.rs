//! The documentation of the format says what the program does: its examples are compared with bytes, its register of
//! numbers with the code.

use std::path::Path;

use refloat_repo::commit::{PackUse, encode_packs};
use refloat_repo::compress::Codec;
use refloat_repo::crypt::seal::DataKey;
use refloat_repo::crypt::sign::{PublicKey, SigningKey};
use refloat_repo::kind::{FORMAT, Kind, Suite};
use refloat_repo::manifest::Leaf;
use refloat_repo::object::document::Signer;
use refloat_repo::object::{Body, Document, Header};
use refloat_repo::pack::frame::{Content, FrameRef};
use refloat_types::{ObjectId, hex};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/format").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The hex bytes of the block that follows `example: NAME` in a page; text behind two blanks is a remark.
fn example(page_name: &str, name: &str) -> Vec<u8> {
    let text = page(page_name);
    let mut lines = text.lines().skip_while(|line| *line != format!("Example: {name}"));
    let block = lines.by_ref().skip_while(|line| !line.starts_with("```")).skip(1);
    let hex: String = block
        .take_while(|line| !line.starts_with("```"))
        .map(|line| line.split("  ").next().unwrap().replace(' ', ""))
        .collect();
    assert!(!hex.is_empty(), "{page_name} has no example {name}");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn same(page_name: &str, name: &str, bytes: &[u8]) {
    let shown = example(page_name, name);
    assert!(shown == bytes, "{page_name}, {name}: the program writes\n{}", hex::encode(bytes));
}

fn id(byte: u8) -> ObjectId {
    ObjectId([byte; 16])
}

fn frame() -> FrameRef {
    FrameRef {
        pack: id(0xaa),
        offset: 64,
        index: 0,
        stored: 300,
        plain: 1000,
        codec: Codec::Zstd,
        tag: [0xbb; 16],
    }
}

#[test]
fn examples_are_what_is_written() {
    let header = Header {
        kind: Kind::Commit,
        suite: Suite::Standard,
        clear: 513,
        id: id(0x11),
        key: id(0x22),
        agent: id(0x33),
    };
    same("objects.md", "header", &header.encode());

    let signing = SigningKey::from_seed([5; 32]).unwrap();
    let document = Document::encode(
        Kind::Owner,
        Suite::Plain,
        id(0x11),
        &Signer::Agent(&signing),
        &serde_json::json!({ "number": 1 }),
        b"table",
        Body::Raw(b"body"),
    );
    same("objects.md", "document", &document.unwrap());

    let mut leaf = Leaf { block_size: 8192, crc32c: 0x1234_5678, hashes: vec![1, 2], ..Leaf::default() };
    leaf.push_frame(1000, &frame(), 0);
    leaf.push_zeros(8000);
    let mut bytes = Vec::new();
    leaf.encode(&mut bytes);
    same("manifests.md", "map leaf", &bytes);

    let pack = PackUse { id: id(0xaa), key: id(0x22), size: 1_000_000, live: 999_000 };
    same("commits.md", "row of the pack table", &encode_packs(&[pack]));

    let table = format!("{}\n", refloat_repo::layout::pack(id(0xaa))).into_bytes();
    assert_eq!(table.len(), 9 + 32 + 1);
    same("expiry.md", "table of a tombstone", &table);

    let key = DataKey::from_parts(id(0x22), [7; 32]);
    same("crypto.md", "commitment", &key.commitment());
    let public = PublicKey([1; 32]);
    assert!(page("crypto.md").contains(&public.fingerprint()), "{}", public.fingerprint());
    assert!(page("crypto.md").contains(&public.agent_id().to_string()), "{}", public.agent_id());
}

/// Rows `| number | name |` of the table below a heading.
fn register(heading: &str) -> Vec<(u8, String)> {
    let text = page("numbers.md");
    let below = text.lines().skip_while(|line| *line != format!("## {heading}")).skip(1);
    let rows = below.take_while(|line| !line.starts_with("## ")).filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
    });
    rows.collect()
}

fn is_reserved(name: &str) -> bool {
    name.starts_with("reserved")
}

#[test]
fn the_register_lists_every_number_in_use() {
    assert_eq!(FORMAT, 1, "a new format needs a new fixture and a new page");
    let kinds = register("Kinds");
    assert!(kinds.len() >= 20, "{kinds:?}");
    for number in 0..=u8::MAX {
        let listed = kinds.iter().find(|(listed, _)| *listed == number);
        let used = Kind::from_number(number);
        match (used, listed) {
            (Some(kind), Some((_, name))) => {
                assert!(!is_reserved(name), "{number} is in use");
                assert_eq!(format!("{kind:?}").to_lowercase(), name.to_lowercase(), "kind {number}");
            }
            (Some(kind), None) => panic!("kind {number}, {kind:?}, is not listed"),
            (None, Some((_, name))) => assert!(is_reserved(name), "kind {number}, {name}, is not in use"),
            (None, None) => {}
        }
    }
    for (heading, used) in [
        ("Suites", (0..=u8::MAX).filter(|n| Suite::try_from(*n).is_ok()).collect::<Vec<_>>()),
        ("Codecs", (0..=u8::MAX).filter(|n| Codec::from_number(*n).is_some()).collect()),
        ("Contents", (0..=u8::MAX).filter(|n| Content::from_number(*n).is_some()).collect()),
    ] {
        let listed = register(heading).into_iter().filter(|(_, name)| !is_reserved(name));
        assert_eq!(listed.map(|(number, _)| number).collect::<Vec<_>>(), used, "{heading}");
    }
}
