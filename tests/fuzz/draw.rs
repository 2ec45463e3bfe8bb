//! Values of any type that can be read: a deserializer that makes up what it reads out of a few bytes of chance.
//!
//! It knows nothing of the types, so that a new variant or field is drawn as soon as it is there.

use std::fmt;

use serde::Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// What names, paths and ids are made of; most of what is checked for its form is among them.
const TEXTS: [&str; 24] = [
    "",
    "a",
    "b",
    "a/b",
    "a.b",
    "..",
    "/",
    "/a",
    "x\u{1b}[2J",
    "\u{fc}\u{202e}",
    "web1",
    "web2",
    "m1",
    "default",
    "acme",
    "coordinator-1",
    "file.copy-1",
    "file.verify-1",
    "eve",
    "b7k2m9x4qz",
    "127.0.0.1:7400",
    "{}",
    "null",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
];

/// Numbers at which something is likely to go wrong.
const EDGES: [u64; 12] = [
    127,
    128,
    255,
    65_535,
    1 << 20,
    (1 << 20) + 1,
    (1 << 31) - 1,
    1 << 32,
    1 << 41,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
];

/// Makes a value out of chance; nothing where that came to none of the type.
pub(crate) fn draw<T: DeserializeOwned>(chance: &[u8]) -> Option<T> {
    T::deserialize(&mut Draw(chance)).ok()
}

/// Chance, used up from the front; then it gives zeros, so that every value ends.
struct Draw<'a>(&'a [u8]);

/// What was drawn is no value of the type.
#[derive(Debug)]
struct NoValue;

impl fmt::Display for NoValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no value")
    }
}

impl std::error::Error for NoValue {}

impl Error for NoValue {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self
    }
}

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn number(&mut self) -> u64 {
        match self.below(5) {
            0 | 1 => u64::from(self.byte() % 4),
            2 => u64::from(self.byte()),
            3 => EDGES[self.below(EDGES.len())],
            _ => u64::from_le_bytes([(); 8].map(|()| self.byte())),
        }
    }

    fn text(&mut self) -> &'static str {
        TEXTS[self.below(TEXTS.len())]
    }

    fn bytes(&mut self) -> Vec<u8> {
        match self.below(4) {
            0 => (0..self.below(40)).map(|_| self.byte()).collect(),
            _ => self.text().as_bytes().to_vec(),
        }
    }
}

/// Numbers are cut to their type, so that the edges of each come up.
macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
            let bytes = self.number().to_le_bytes();
            visitor.$visit(<$type>::from_le_bytes(*bytes.first_chunk().unwrap()))
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Draw<'_> {
    type Error = NoValue;

    numbers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NoValue> {
        Err(NoValue)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_bool(self.byte() % 2 == 1)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_f32(f32::from(self.byte()))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_f64(f64::from_bits(self.number()))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_char(char::from(self.byte()))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_str(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_byte_buf(self.bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        if self.byte().is_multiple_of(2) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        let length = self.below(5);
        visitor.visit_seq(Items { draw: self, left: length })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_seq(Items { draw: self, left: length })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        let length = self.below(3);
        visitor.visit_map(Items { draw: self, left: length })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        let variant = self.below(variants.len());
        visitor.visit_enum(Variant { draw: self, variant })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NoValue> {
        Err(NoValue)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NoValue> {
        Err(NoValue)
    }
}

struct Items<'d, 'a> {
    draw: &'d mut Draw<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = NoValue;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NoValue> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.draw).map(Some)
    }
}

impl<'de> MapAccess<'de> for Items<'_, '_> {
    type Error = NoValue;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoValue> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NoValue> {
        seed.deserialize(&mut *self.draw)
    }
}

struct Variant<'d, 'a> {
    draw: &'d mut Draw<'a>,
    variant: usize,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = NoValue;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), NoValue> {
        let index = u32::try_from(self.variant).unwrap();
        let value = seed.deserialize(IntoDeserializer::<NoValue>::into_deserializer(index))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = NoValue;

    fn unit_variant(self) -> Result<(), NoValue> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NoValue> {
        seed.deserialize(self.draw)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, NoValue> {
        self.draw.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        self.draw.deserialize_tuple(fields.len(), visitor)
    }
}
