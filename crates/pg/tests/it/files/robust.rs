//! Bytes from outside must never stop the process.

use proptest::prelude::*;
use refloat_pg::conf::{Line, comment_out, parse_line, quote, set, split_list};
use refloat_pg::control::{ControlFile, poison};
use refloat_pg::label::{BackupLabel, parse_tablespace_map};
use refloat_pg::layout::{FileClass, classify, contents_excluded};
use refloat_pg::page::{check_page, check_page_header, check_pages, page_lsn};

/// Bytes that look like configuration.
fn conf_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"port".to_vec()),
        Just(b"restore_command".to_vec()),
        Just(b"include_dir".to_vec()),
        Just(b" = ".to_vec()),
        Just(b"'".to_vec()),
        Just(b"\\".to_vec()),
        Just(b"#".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"12kB".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000), block: u32) {
        let _ = ControlFile::parse(&bytes);
        let _ = poison(&bytes);
        let _ = BackupLabel::parse(&bytes);
        let _ = parse_tablespace_map(&bytes);
        let _ = classify(&bytes);
        let _ = contents_excluded(&bytes);
        let _ = (check_page(&bytes, block), check_page_header(&bytes), page_lsn(&bytes));
        for size in [0, 1, 1024, 8192] {
            check_pages(&bytes, block, size, true, |_, _| {});
        }
        let _ = split_list(&bytes);
    }

    #[test]
    fn commenting_out_keeps_every_byte(text in conf_like()) {
        let names = ["port", "restore_command"];
        let done = comment_out(&text, &names, "why");
        // Without the reasons and the marks it is the text as it was.
        let mut back = Vec::new();
        let mut lines = text.split_inclusive(|b| *b == b'\n');
        for line in done.text.split_inclusive(|b| *b == b'\n') {
            if line == b"# why\n" {
                continue;
            }
            let original = lines.next().expect("no line is added but reasons");
            let marked = line.strip_prefix(b"#").filter(|rest| *rest == original);
            back.extend_from_slice(marked.unwrap_or(line));
        }
        prop_assert_eq!(&back, &text);
        for line in done.text.split(|b| *b == b'\n') {
            let still = matches!(parse_line(line), Line::Setting { name, .. } if names.contains(&name.as_str()));
            prop_assert!(!still);
        }
    }

    #[test]
    fn any_value_is_read_back(value in "\\PC*|[\\x01-\\x7f]*", text in conf_like()) {
        prop_assert!(quote(&value).is_some());
        let text = set(&text, "some.name", &value).expect("no zero byte");
        let last = text.split_inclusive(|b| *b == b'\n').next_back().expect("a line");
        let expected = Line::Setting { name: "some.name".to_owned(), value: value.into_bytes() };
        prop_assert_eq!(parse_line(last), expected);
    }

    #[test]
    fn every_relation_has_its_path(database in 1_u32.., number in 1_u32.., segment: u32, fork in 0..4_usize) {
        let fork = ["", "_fsm", "_vm", "_init"][fork];
        let dot = if segment == 0 { String::new() } else { format!(".{segment}") };
        let path = format!("base/{database}/{number}{fork}{dot}");
        let FileClass::Relation(found) = classify(path.as_bytes()) else { panic!("{path}") };
        prop_assert_eq!((found.database, found.number, found.segment), (database, number, segment));
        prop_assert_eq!(found.fork.suffix(), fork);
    }
}
