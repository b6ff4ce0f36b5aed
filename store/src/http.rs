//! The one way in which this project makes HTTP clients.

use std::sync::Once;

/// A client builder whose TLS works: reqwest is built without a choice of cryptography, and this makes it, once.
pub fn http_client() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only when somebody has chosen already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().user_agent(concat!("platypus/", env!("CARGO_PKG_VERSION")))
}
