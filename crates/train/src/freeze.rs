//! How much of a trained network stays as it is.

use std::fmt;
use std::str::FromStr;

use mobilenet::Architecture;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What does not learn: `none`, a number of blocks or `body`, on the command line and in recipes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freeze {
    /// Everything learns.
    #[default]
    None,
    /// The first convolution and so many blocks stay. Images are augmented and run through them
    /// anew every epoch, even if these are all blocks.
    Blocks(usize),
    /// Only the classifier learns, from features that are computed once.
    Body,
}

impl Freeze {
    /// For [`mobilenet::Executor::freeze`].
    pub fn blocks(self, architecture: &Architecture) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Blocks(blocks) => Some(blocks),
            Self::Body => Some(architecture.blocks()),
        }
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Blocks(blocks) => blocks.fmt(f),
            Self::Body => f.write_str("body"),
        }
    }
}

impl FromStr for Freeze {
    type Err = mobilenet::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "body" => Ok(Self::Body),
            _ => text.parse().map(Self::Blocks).map_err(|_| mobilenet::Error::Input {
                what: "freeze".into(),
                expected: "body, none, or a number of blocks".into(),
                found: text.to_owned(),
            }),
        }
    }
}

impl Serialize for Freeze {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Blocks(blocks) => serializer.serialize_u64(*blocks as u64),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Freeze {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Freeze;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"body\", \"none\" or a number of blocks")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Freeze, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, blocks: u64) -> Result<Freeze, E> {
                usize::try_from(blocks)
                    .map(Freeze::Blocks)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(blocks), &self))
            }

            fn visit_i64<E: de::Error>(self, blocks: i64) -> Result<Freeze, E> {
                match u64::try_from(blocks) {
                    Ok(blocks) => self.visit_u64(blocks),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(blocks), &self)),
                }
            }
        }
        deserializer.deserialize_any(Value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;

    #[test]
    fn names_and_numbers_survive_a_recipe_file() {
        for (text, value) in
            [("\"none\"", Freeze::None), ("\"body\"", Freeze::Body), ("6", Freeze::Blocks(6))]
        {
            let recipe = Recipe::from_toml(&format!("freeze = {text}\n"), "r.toml".as_ref()).unwrap();
            assert_eq!(recipe.freeze, Some(value));
            assert!(recipe.to_toml().unwrap().contains(&format!("freeze = {text}\n")));
            assert_eq!(recipe.overlaid(&Recipe::default()), recipe);
            assert_eq!(value.to_string().parse::<Freeze>().unwrap(), value);
        }
        for text in ["\"bod\"", "-1", "1.5", "true"] {
            let error = Recipe::from_toml(&format!("freeze = {text}\n"), "r.toml".as_ref()).unwrap_err();
            assert!(error.to_string().contains("a number of blocks"), "{error}");
        }
        assert!("-1".parse::<Freeze>().is_err());
    }

    #[test]
    fn the_body_is_all_blocks() {
        let a = Architecture::default();
        assert_eq!(Freeze::Body.blocks(&a), Some(13));
        assert_eq!(
            Freeze::Body.blocks(&Architecture { body: mobilenet::Body::Shallow, ..a.clone() }),
            Some(8)
        );
        assert_eq!(Freeze::Blocks(4).blocks(&a), Some(4));
        assert_eq!(Freeze::None.blocks(&a), None);
    }
}
