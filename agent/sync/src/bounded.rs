//! Lists on the wire that end where their bound is: what is too much is refused before it takes memory.
//!
//! A body of a few mebibytes can announce a million elements of two bytes each, which take fifty times as much once
//! they are values. So bounds are asked while a list is read, not when it was read.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a list of at most `MAX` elements; for fields:
/// `#[serde(deserialize_with = "crate::bounded::list::<_, _, MAX>")]`.
///
/// # Errors
/// When there are more, or they cannot be read.
pub fn list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    weighed(deserializer, MAX, usize::MAX, |_element| 1)
}

/// Reads a list of at most `count_max` elements that weigh at most `weight_max` together; the last one may go over it
/// by its own weight.
///
/// # Errors
/// When there is more, or the elements cannot be read.
pub fn weighed<'de, D, T>(
    deserializer: D,
    count_max: usize,
    weight_max: usize,
    weight: fn(&T) -> usize,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Bounded { count_max, weight_max, weight, element: PhantomData })
}

struct Bounded<T> {
    count_max: usize,
    weight_max: usize,
    weight: fn(&T) -> usize,
    element: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} elements", self.count_max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        let mut weight = 0_usize;
        while let Some(element) = elements.next_element()? {
            if list.len() >= self.count_max || weight > self.weight_max {
                return Err(A::Error::custom("a list is longer than it may be"));
            }
            weight = weight.saturating_add((self.weight)(&element));
            list.push(element);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Short(#[serde(deserialize_with = "super::list::<_, _, 3>")] Vec<u16>);

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Light(#[serde(deserialize_with = "light")] Vec<u16>);

    fn light<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
        super::weighed(deserializer, 100, 10, |element| usize::from(*element))
    }

    #[test]
    fn a_list_ends_at_its_bound() {
        let bytes = postcard::to_allocvec(&vec![1_u16, 2, 3]).unwrap();
        assert_eq!(postcard::from_bytes::<Short>(&bytes).unwrap(), Short(vec![1, 2, 3]));
        let bytes = postcard::to_allocvec(&vec![1_u16, 2, 3, 4]).unwrap();
        assert!(postcard::from_bytes::<Short>(&bytes).is_err());
        let bytes = postcard::to_allocvec(&vec![8_u16, 9]).unwrap();
        assert!(postcard::from_bytes::<Light>(&bytes).is_ok());
        let bytes = postcard::to_allocvec(&vec![8_u16, 9, 1]).unwrap();
        assert!(postcard::from_bytes::<Light>(&bytes).is_err());
        // A length that nothing follows reserves nothing.
        assert!(postcard::from_bytes::<Short>(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
