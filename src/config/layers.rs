//! The tree of values that a file and the environment give together, each leaf knowing where it came from.

use std::{collections::BTreeMap, ffi::OsString};

use serde::{
    Deserializer,
    de::{self, IntoDeserializer, value::MapDeserializer, value::SeqDeserializer},
    forward_to_deserialize_any,
};

/// What the names of our environment variables start with; sections and keys follow, `__` between them.
pub const PREFIX: &str = "COMITY__";

/// A section, or a value.
#[derive(Clone, Debug)]
pub enum Node {
    Section(BTreeMap<String, Node>),
    /// From the file.
    File(toml::Value),
    /// From the environment: text, read as whatever the key wants.
    Variable {
        name: String,
        text: String,
    },
}

impl Node {
    /// The file's tree.
    pub fn from_table(table: toml::Table) -> Self {
        let node = |value| match value {
            toml::Value::Table(table) => Self::from_table(table),
            value => Self::File(value),
        };
        Self::Section(table.into_iter().map(|(key, value)| (key, node(value))).collect())
    }

    /// Lays the environment over this tree. An empty variable takes the key away, so that its default holds.
    ///
    /// Answers the names of the variables that hold no valid text.
    pub fn overlay(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
        let mut unreadable = Vec::new();
        let sorted: BTreeMap<_, _> = variables.collect();
        for (name, value) in sorted {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let Ok(text) = value.into_string() else {
                unreadable.push(name.to_owned());
                continue;
            };
            let path = name[PREFIX.len()..].to_ascii_lowercase();
            let path: Vec<&str> = path.split("__").collect();
            if text.is_empty() {
                self.remove(&path);
            } else {
                self.insert(&path, Self::Variable { name: name.to_owned(), text });
            }
        }
        unreadable
    }

    /// Adds the values of `defaults` that are missing here; `null` stands for no value.
    pub fn fill_up(&mut self, defaults: &serde_json::Value) {
        let (Self::Section(keys), Some(defaults)) = (self, defaults.as_object()) else { return };
        for (key, default) in defaults {
            if default.is_object() {
                keys.entry(key.clone()).or_insert_with(|| Self::Section(BTreeMap::new())).fill_up(default);
            } else if !keys.contains_key(key)
                && let Ok(default) = toml::Value::try_from(default)
            {
                keys.insert(key.clone(), Self::File(default));
            }
        }
    }

    /// The node at `path`.
    pub fn find(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| match node {
            Self::Section(keys) => keys.get(*key),
            _ => None,
        })
    }

    /// Takes away the node at `path`.
    pub fn remove(&mut self, path: &[&str]) -> Option<Self> {
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(self, |node, key| match node {
            Self::Section(keys) => keys.get_mut(*key),
            _ => None,
        })?;
        match parent {
            Self::Section(keys) => keys.remove(*last),
            _ => None,
        }
    }

    fn insert(&mut self, path: &[&str], value: Self) {
        let Some((first, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self, Self::Section(_)) {
            *self = Self::Section(BTreeMap::new());
        }
        if let Self::Section(keys) = self {
            keys.entry((*first).to_owned()).or_insert_with(|| Self::Section(BTreeMap::new())).insert(rest, value);
        }
    }
}

// === impl Deserializer ===

impl<'de> Deserializer<'de> for Node {
    type Error = toml::de::Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Self::Section(keys) => visitor.visit_map(MapDeserializer::new(keys.into_iter())),
            Self::File(value) => value.deserialize_any(visitor),
            Self::Variable { text, .. } => visitor.visit_string(text),
        }
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    /// A variable's list has commas between its items.
    fn deserialize_seq<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Self::Variable { name, text } => {
                let item = |text: &str| Self::Variable { name: name.clone(), text: text.trim().to_owned() };
                let items: Vec<_> = text.split(',').map(item).collect();
                visitor.visit_seq(SeqDeserializer::new(items.into_iter()))
            }
            Self::File(value @ toml::Value::Array(_)) => value.deserialize_any(visitor),
            // The wrong value isn't repeated: the lists there are hold secrets.
            _ => Err(de::Error::custom("found a single value; expected a list, such as [\"one\", \"two\"]")),
        }
    }

    fn deserialize_newtype_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_bool<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match &self {
            Self::Variable { text, .. } if text.trim() == "true" => visitor.visit_bool(true),
            Self::Variable { text, .. } if text.trim() == "false" => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct
        enum identifier ignored_any
    }
}

impl IntoDeserializer<'_, toml::de::Error> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
