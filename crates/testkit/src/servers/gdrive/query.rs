//! The language of searches, as far as Drive documents it for names, types, parents, properties and the trash.

use super::files::File;

/// A search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    All,
    Name(String),
    Type { is: String, not: bool },
    Parent(String),
    Trashed(bool),
    Property(String, String),
    And(Box<Search>, Box<Search>),
    Or(Box<Search>, Box<Search>),
}

impl Search {
    pub(super) fn fits(&self, file: &File, is_trashed: bool) -> bool {
        match self {
            Self::All => true,
            // As Drive does it, whatever the case.
            Self::Name(name) => file.name.eq_ignore_ascii_case(name),
            Self::Type { is, not } => (file.mime == *is) != *not,
            Self::Parent(id) => file.parents.contains(id),
            Self::Trashed(is) => is_trashed == *is,
            Self::Property(name, value) => file.properties.get(name) == Some(value),
            Self::And(one, other) => one.fits(file, is_trashed) && other.fits(file, is_trashed),
            Self::Or(one, other) => one.fits(file, is_trashed) || other.fits(file, is_trashed),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Plain(String),
    Text(String),
    Sign(char),
}

/// Reads a search; `None` where it is none.
pub(super) fn parse(text: &str) -> Option<Search> {
    let mut words = words(text)?.into_iter().peekable();
    if words.peek().is_none() {
        return Some(Search::All);
    }
    let search = any(&mut words)?;
    words.next().is_none().then_some(search)
}

type Words = std::iter::Peekable<std::vec::IntoIter<Word>>;

fn words(text: &str) -> Option<Vec<Word>> {
    let (mut out, mut chars) = (Vec::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            ' ' => {}
            '\'' => {
                let mut value = String::new();
                loop {
                    match chars.next()? {
                        '\\' => value.push(chars.next()?),
                        '\'' => break,
                        c => value.push(c),
                    }
                }
                out.push(Word::Text(value));
            }
            '(' | ')' | '{' | '}' | '=' => out.push(Word::Sign(c)),
            '!' => {
                chars.next_if_eq(&'=')?;
                out.push(Word::Sign('!'));
            }
            c if c.is_ascii_alphabetic() => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(char::is_ascii_alphanumeric) {
                    word.push(c);
                }
                out.push(Word::Plain(word));
            }
            _ => return None,
        }
    }
    Some(out)
}

fn is_next(words: &mut Words, word: &str) -> bool {
    words.next_if(|next| matches!(next, Word::Plain(text) if text == word)).is_some()
}

fn sign(words: &mut Words, sign: char) -> Option<()> {
    words.next_if_eq(&Word::Sign(sign)).map(drop)
}

fn text(words: &mut Words) -> Option<String> {
    match words.next()? {
        Word::Text(text) => Some(text),
        _ => None,
    }
}

fn any(words: &mut Words) -> Option<Search> {
    let mut left = all(words)?;
    while is_next(words, "or") {
        left = Search::Or(Box::new(left), Box::new(all(words)?));
    }
    Some(left)
}

fn all(words: &mut Words) -> Option<Search> {
    let mut left = one(words)?;
    while is_next(words, "and") {
        left = Search::And(Box::new(left), Box::new(one(words)?));
    }
    Some(left)
}

fn one(words: &mut Words) -> Option<Search> {
    if sign(words, '(').is_some() {
        let inside = any(words)?;
        sign(words, ')')?;
        return Some(inside);
    }
    let field = match words.next()? {
        Word::Text(id) => {
            let within = is_next(words, "in") && is_next(words, "parents");
            return within.then_some(Search::Parent(id));
        }
        Word::Plain(field) => field,
        Word::Sign(_) => return None,
    };
    match field.as_str() {
        "name" => {
            sign(words, '=')?;
            Some(Search::Name(text(words)?))
        }
        "mimeType" => {
            let not = sign(words, '!').is_some();
            if !not {
                sign(words, '=')?;
            }
            Some(Search::Type { is: text(words)?, not })
        }
        "trashed" => {
            sign(words, '=')?;
            let is = is_next(words, "true");
            (is || is_next(words, "false")).then_some(Search::Trashed(is))
        }
        "properties" => {
            let opens = is_next(words, "has");
            sign(words, '{').filter(|()| opens)?;
            is_next(words, "key").then_some(())?;
            sign(words, '=')?;
            let name = text(words)?;
            (is_next(words, "and") && is_next(words, "value")).then_some(())?;
            sign(words, '=')?;
            let value = text(words)?;
            sign(words, '}')?;
            Some(Search::Property(name, value))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_read_and_others_refused() {
        let search = parse("('a\\'b' in parents or 'c' in parents) and trashed = false").unwrap();
        let parent = |id: &str| Box::new(Search::Parent(id.to_owned()));
        let either = Search::Or(parent("a'b"), parent("c"));
        assert_eq!(search, Search::And(Box::new(either), Box::new(Search::Trashed(false))));
        let of = "properties has { key='refloat1' and value='wal' }";
        assert_eq!(parse(of), Some(Search::Property("refloat1".into(), "wal".into())));
        assert_eq!(parse("mimeType != 'x'"), Some(Search::Type { is: "x".into(), not: true }));
        assert_eq!(parse(""), Some(Search::All));
        for bad in ["name", "name = x", "name = 'x", "size = '1'", "'a' in", "name = 'x' and", "(name = 'x'"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
