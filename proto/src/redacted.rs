//! Debug forms of messages that hold a secret: they say that it is there and nothing else.

use std::fmt;

use crate::v1::SetSecretRequest;

impl fmt::Debug for SetSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value: _, must_exist, request_id } = self;
        f.debug_struct("SetSecretRequest")
            .field("name", name)
            .field("must_exist", must_exist)
            .field("request_id", request_id)
            .finish_non_exhaustive()
    }
}
