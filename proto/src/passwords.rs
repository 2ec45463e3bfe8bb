//! Debug forms of the messages that hold a password, which must show none.

use std::fmt::{Debug, Formatter, Result};

use crate::v1::{CreateUserRequest, LoginRequest, OwnPasswordRequest, SetPasswordRequest};

impl Debug for LoginRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("LoginRequest")
            .field("tenant", &self.tenant)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Debug for OwnPasswordRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("OwnPasswordRequest").finish_non_exhaustive()
    }
}

impl Debug for CreateUserRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CreateUserRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Debug for SetPasswordRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("SetPasswordRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let password = || "hunter2-hunter2".to_owned();
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            LoginRequest { password: password(), ..LoginRequest::default() },
            OwnPasswordRequest { current: password(), password: password() },
            CreateUserRequest { password: password(), ..CreateUserRequest::default() },
            SetPasswordRequest { password: password(), ..SetPasswordRequest::default() },
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
