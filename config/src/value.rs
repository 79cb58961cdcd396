//! From text to the values of a [`Machine`](crate::Machine): host names,
//! addresses, keys of kernel parameters, PEM. Each says in words what is wrong,
//! for a person who wrote the text and does not see the rule.

mod address;
mod duration;
mod host;
mod link;
mod pem;
mod size;
mod sysctl;
mod token;

pub(crate) use address::{address, host_address, network};
pub(crate) use duration::duration;
pub(crate) use host::{host, host_name, is_plain_name, server_url};
pub use link::{LINKS_OF_PODS, is_of_pods};
pub(crate) use link::{driver, is_of_a_card, link_name, lower_link, made_name};
pub(crate) use pem::{Pem, pem};
pub(crate) use size::size;
pub(crate) use token::token;

/// Why a text is not such a value, and what could be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl Wrong {
    /// With nothing to do about it.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Wrong {
            message: message.into(),
            hint: String::new(),
        }
    }

    /// With what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Wrong {
            hint: hint.into(),
            ..self
        }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}
