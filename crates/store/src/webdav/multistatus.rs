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
    /// What the server says of the resource as a whole; `None` where it tells properties only.
    pub(super) status: Option<u16>,
}

/// Reads a document; `None` when it is no multistatus, or not the whole of one: what was cut short would be a list that
/// lacks resources.
pub(super) fn parse(document: &[u8]) -> Option<Vec<Resource>> {
    let text = std::str::from_utf8(document).ok()?;
    let mut reader = Reader::from_str(text);
    let (mut found, mut current) = (Vec::new(), None::<Resource>);
    // The names of the elements that are open, and whether the outermost was closed.
    let (mut open, mut is_whole) = (Vec::<String>::new(), false);
    let mut value = String::new();
    loop {
        match reader.read_event().ok()? {
            Event::Eof => return (is_whole && open.is_empty()).then_some(found),
            Event::Start(start) => {
                value.clear();
                let name = start.local_name().into_inner();
                if open.is_empty() && (is_whole || name != "multistatus") {
                    return None;
                }
                match name {
                    "response" => current = Some(Resource::default()),
                    "collection" => current.as_mut()?.is_collection = true,
                    _ => {}
                }
                open.push(name.to_owned());
            }
            Event::Empty(empty) => {
                value.clear();
                let name = empty.local_name().into_inner();
                if open.is_empty() {
                    if is_whole || name != "multistatus" {
                        return None;
                    }
                    is_whole = true;
                }
                if name == "collection"
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
                open.pop()?;
                is_whole = open.is_empty();
                let is_of_response = open.last().is_some_and(|name| name == "response");
                match (end.local_name().as_ref(), &mut current) {
                    ("response", Some(_)) => found.extend(current.take()),
                    ("href", Some(current)) if current.path.is_empty() => current.path = path(said)?,
                    // Within `propstat` it is the status of properties.
                    ("status", Some(current)) if is_of_response => current.status = Some(status(said)?),
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

/// The number in a status line.
fn status(line: &str) -> Option<u16> {
    line.split_whitespace().nth(1)?.parse().ok()
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
        assert_eq!(parse(b"<multistatus/>"), Some(Vec::new()));
        assert_eq!(parse(b"<multistatus></multistatus>\n"), Some(Vec::new()));
        assert_eq!(parse(b"<multistatus/><multistatus></multistatus>"), None);
    }

    #[test]
    fn a_document_that_was_cut_short_is_none() {
        let whole = "<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/a/</D:href><D:propstat>\
            <D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status>\
            </D:propstat></D:response><D:response><D:href>/a/x</D:href><D:propstat><D:prop><D:getcontentlength>12\
            </D:getcontentlength></D:prop></D:propstat></D:response></D:multistatus>";
        assert_eq!(parse(whole.as_bytes()).unwrap().len(), 2);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole.as_bytes()[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_status_of_a_resource_is_not_that_of_its_properties() {
        let text = "<multistatus><response><href>/a</href><status>HTTP/1.1 403 Forbidden</status></response>\
            <response><href>/b</href><propstat><prop><getcontentlength/></prop><status>HTTP/1.1 404 Not Found</status>\
            </propstat></response></multistatus>";
        let found: Vec<Option<u16>> =
            parse(text.as_bytes()).unwrap().into_iter().map(|resource| resource.status).collect();
        assert_eq!(found, [Some(403), None]);
    }
}
