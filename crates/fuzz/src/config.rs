//! Refloat's own configuration.

use std::path::Path;

use refloat_config::Config;
use refloat_types::Explain as _;

/// `refloat.toml`. What is accepted is kept in every backup, and must be read again as the same.
///
/// # Panics
/// When it is not.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("/etc/refloat/refloat.toml");
    match Config::from_text(file, text) {
        Err(error) => drop((error.to_string(), error.advice())),
        Ok(config) => {
            let again = Config::from_text(file, config.without_secrets());
            let again = again.unwrap_or_else(|error| panic!("{error}\n{}", config.without_secrets()));
            assert_eq!(again.show(false), config.show(false));
        }
    }
}
