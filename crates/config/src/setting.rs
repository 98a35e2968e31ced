//! One setting: how it is read, shown and described. `options!` makes a table of them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value as Json;

use crate::error::{Fault, Problem};
use crate::node::{Node, Table, Value};
use crate::place::{Origin, Place};

/// Which table a value is read from; becomes its [`Origin`].
#[derive(Debug, Clone)]
pub(crate) enum Layer {
    Own,
    Template(String),
    Defaults(&'static str),
}

/// Where the reader is: the dotted path and the layer.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    pub path: Cow<'a, str>,
    pub layer: &'a Layer,
}

impl At<'_> {
    /// The path of a key below.
    pub(crate) fn key(&self, key: &str) -> At<'_> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        At { path: Cow::Owned(path), layer: self.layer }
    }
    /// `[source.prod]`.
    pub(crate) fn table(&self) -> String {
        if self.path.is_empty() { "the configuration".to_owned() } else { format!("[{}]", self.path) }
    }
    pub(crate) fn origin(&self, place: &Place) -> Origin {
        let place = place.clone();
        match self.layer {
            Layer::Own => Origin::File(place),
            Layer::Template(name) => Origin::Template { name: name.clone(), place },
            Layer::Defaults(kind) => Origin::Defaults { kind, place },
        }
    }
}

/// A value that was set, where, and by which layer.
#[derive(Debug, Clone)]
pub(crate) struct Set<T> {
    pub value: T,
    pub place: Place,
    pub origin: Origin,
}

/// A type that a setting can have.
pub(crate) trait Setting: Sized + JsonSchema {
    /// What a person should write, for "takes …".
    const TAKES: &'static str;
    /// Reads it; a fault is added to `problems` and gives `None`.
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self>;
    /// As `config show` prints it. Never a secret's content.
    fn show(&self) -> Json;
    /// What results when a lower layer sets the same key: its own value, unless the type says otherwise.
    fn over(self, _lower: &Self) -> Self {
        self
    }
}

/// The common fault of a wrong type.
pub(crate) fn wrong_type<T>(
    node: &Node,
    at: &At<'_>,
    takes: &'static str,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let fault = Fault::WrongType {
        key: at.path.clone().into_owned(),
        expected: takes,
        found: node.value.type_name(),
    };
    problems.push(Problem::new(node.place.clone(), fault));
    None
}

/// Reads a setting that is one string.
pub(crate) fn read_text<T>(
    node: &Node,
    at: &At<'_>,
    takes: &'static str,
    problems: &mut Vec<Problem>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Value::String(text) = &node.value else { return wrong_type(node, at, takes, problems) };
    match parse(text) {
        Ok(value) => Some(value),
        Err(why) => {
            problems.push(Problem::bad(&node.place, at.path.clone(), why));
            None
        }
    }
}

/// Adds a fault for every key that none of `known` has.
pub(crate) fn refuse_unknown(table: &Table, at: &At<'_>, known: &[&[&str]], problems: &mut Vec<Problem>) {
    let known: Vec<&str> = known.iter().flat_map(|keys| keys.iter().copied()).collect();
    for (key, entry) in &table.entries {
        if !known.contains(&key.as_str()) {
            let meant = nearest(key, known.iter().copied())
                .map(|meant| format!("Did you mean \"{meant}\"?"))
                .or_else(|| crate::options::home_of(key).map(|home| format!("\"{key}\" belongs in {home}.")));
            let fault = Fault::Unknown { key: key.clone(), table: at.table(), meant };
            problems.push(Problem::new(entry.key.clone(), fault));
        }
    }
}

/// The known word that is meant by a mistyped one, if one is near enough.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase().replace('-', "_");
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Drops `required` from a table's schema: what a table lacks may come from a layer below, and the checker says so better.
pub(crate) fn nothing_required(schema: &mut Schema) {
    schema.remove("required");
}

/// Makes a JSON schema for a type that is written as one string.
pub(crate) fn text_schema(description: &str, pattern: Option<&str>) -> Schema {
    let mut schema = schemars::json_schema!({ "type": "string", "description": description });
    if let Some(pattern) = pattern {
        schema.insert("pattern".to_owned(), Json::from(pattern));
    }
    schema
}

/// Implements `JsonSchema` inline by an expression.
macro_rules! schema_of {
    ($type:ty, |$generator:ident| $schema:expr) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema($generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    };
}
pub(crate) use schema_of;

/// A table of settings: each key is one documented field of a [`Setting`] type. Gives the struct of what was set, its
/// reader, its layering, its schema and the list of its keys, so none of these can disagree.
macro_rules! options {
    ($(#[doc = $about:expr])* $visibility:vis struct $name:ident { $($(#[$meta:meta])* $key:ident: $type:ty,)* }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Default)]
        $visibility struct $name { $(pub $key: Option<$crate::setting::Set<$type>>,)* }

        impl $name {
            /// Its keys.
            pub(crate) const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            /// Reads what is set; keys it does not know are left to [`crate::setting::refuse_unknown`].
            pub(crate) fn read_keys(
                table: &$crate::node::Table, at: &$crate::setting::At<'_>, problems: &mut Vec<$crate::error::Problem>,
            ) -> Self {
                Self { $($key: $crate::setting::read_key(table, stringify!($key), at, problems),)* }
            }
        }

        impl $crate::setting::Layered for $name {
            fn over(self, lower: &Self) -> Self {
                Self { $($key: $crate::setting::layer(self.$key, &lower.$key),)* }
            }
        }

        const _: () = {
            $(#[doc = $about])*
            #[derive(schemars::JsonSchema)]
            #[schemars(deny_unknown_fields, inline, transform = $crate::setting::nothing_required)]
            #[expect(dead_code, reason = "only its schema is used")]
            struct Described { $($(#[$meta])* $key: $type,)* }
            $crate::setting::schema_of!($name, |generator| <Described as schemars::JsonSchema>::json_schema(generator));
        };
    };
}
pub(crate) use options;

/// Reads one key of a table.
pub(crate) fn read_key<T: Setting>(
    table: &Table,
    key: &str,
    at: &At<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Set<T>> {
    let entry = table.entries.get(key)?;
    let value = T::read(&entry.node, &at.key(key), problems)?;
    Some(Set { value, place: entry.node.place.clone(), origin: at.origin(&entry.key) })
}

/// A table that can lie over another of its kind.
pub(crate) trait Layered {
    /// What results: each key by the rule of its type.
    fn over(self, lower: &Self) -> Self;
}

/// Layers one key: `upper` wins.
pub(crate) fn layer<T: Setting + Clone>(upper: Option<Set<T>>, lower: &Option<Set<T>>) -> Option<Set<T>> {
    match (upper, lower) {
        (Some(mut upper), Some(lower)) => {
            upper.value = upper.value.over(&lower.value);
            Some(upper)
        }
        (upper, lower) => upper.or_else(|| lower.clone()),
    }
}

/// Lets a generator be named in expressions of `schema_of!`.
pub(crate) fn items_schema<T: JsonSchema>(generator: &mut SchemaGenerator, description: &str) -> Schema {
    let items = generator.subschema_for::<T>();
    schemars::json_schema!({ "type": "array", "description": description, "items": items, "minItems": 1 })
}
