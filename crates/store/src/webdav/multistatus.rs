//! What a WebDAV server answers to PROPFIND: a `multistatus` document, read by the names of its elements alone, whatever
//! prefix a server gives their namespace.

use quick_xml::Reader;
use quick_xml::events::Event;
use refloat_types::Timestamp;

/// One resource.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// Its path, decoded, without the host and without a slash at the end.
    pub(super) path: String,
    pub(super) is_collection: bool,
    pub(super) size: u64,
    pub(super) modified: Option<Timestamp>,
}

/// Reads a document; `None` when it is no multistatus.
pub(super) fn parse(document: &[u8]) -> Option<Vec<Resource>> {
    let text = std::str::from_utf8(document).ok()?;
    let mut reader = Reader::from_str(text);
    let (mut found, mut current) = (Vec::new(), None::<Resource>);
    let (mut is_multistatus, mut value) = (false, String::new());
    loop {
        match reader.read_event().ok()? {
            Event::Eof => return is_multistatus.then_some(found),
            Event::Start(start) => {
                value.clear();
                match start.local_name().as_ref() {
                    "multistatus" => is_multistatus = true,
                    "response" => current = Some(Resource::default()),
                    "collection" => current.as_mut()?.is_collection = true,
                    _ => {}
                }
            }
            Event::Empty(empty) => {
                value.clear();
                if empty.local_name().as_ref() == "collection"
                    && let Some(current) = &mut current
                {
                    current.is_collection = true;
                }
            }
            Event::Text(text) => value.push_str(text.as_ref()),
            Event::CData(text) => value.push_str(text.as_ref()),
            // Entities: those of XML itself; servers write paths with percent signs.
            Event::GeneralRef(name) => value.push_str(match name.as_ref() {
                "amp" => "&",
                "lt" => "<",
                "gt" => ">",
                "quot" => "\"",
                "apos" => "'",
                _ => return None,
            }),
            Event::End(end) => {
                let said = value.trim();
                match (end.local_name().as_ref(), &mut current) {
                    ("response", Some(_)) => found.extend(current.take()),
                    ("href", Some(current)) if current.path.is_empty() => current.path = path(said)?,
                    ("getcontentlength", Some(current)) => current.size = said.parse().unwrap_or(0),
                    ("getlastmodified", Some(current)) => current.modified = time(said),
                    _ => {}
                }
                value.clear();
            }
            _ => {}
        }
    }
}

/// The path of an address, decoded.
fn path(href: &str) -> Option<String> {
    let path = match href.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| rest.get(at..).unwrap_or("/")),
        None => href,
    };
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        decoded.push(u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?);
    }
    String::from_utf8(decoded).ok().map(|path| path.trim_end_matches('/').to_owned())
}

fn time(text: &str) -> Option<Timestamp> {
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_zoned(text).ok()?;
    Some(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_several_servers_are_read() {
        let apache = "<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\"><D:response xmlns:lp1=\"DAV:\">\
            <D:href>/dav/a%20b/</D:href><D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype>\
            </D:prop></D:propstat></D:response><D:response><D:href>http://h:1/dav/x</D:href><D:propstat><D:prop>\
            <lp1:getcontentlength> 12 </lp1:getcontentlength>\
            <lp1:getlastmodified>Sat, 28 Nov 2026 22:03:13 GMT</lp1:getlastmodified></D:prop></D:propstat>\
            </D:response></D:multistatus>";
        let found = parse(apache.as_bytes()).unwrap();
        let time = "2026-11-28T22:03:13Z".parse().unwrap();
        assert_eq!(
            found,
            [
                Resource { path: "/dav/a b".into(), is_collection: true, ..Resource::default() },
                Resource { path: "/dav/x".into(), size: 12, modified: Some(time), ..Resource::default() },
            ]
        );
        let plain = "<multistatus xmlns='DAV:'><response><href>/a&amp;b</href><propstat><prop><resourcetype>\
            <collection></collection></resourcetype></prop></propstat></response></multistatus>";
        let found = parse(plain.as_bytes()).unwrap();
        assert_eq!((found[0].path.as_str(), found[0].is_collection), ("/a&b", true));
    }

    #[test]
    fn other_bytes_are_no_document() {
        for bytes in [
            b"".as_slice(),
            b"<html></html>",
            b"<a",
            b"\xff",
            b"<collection>",
            b"<multistatus><response><href>%zz</href>",
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
        assert_eq!(parse(b"<multistatus/><multistatus></multistatus>"), Some(Vec::new()));
    }
}
