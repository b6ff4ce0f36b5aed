//! One signature in minisign's format: by whom, and of what.

use anyhow::{Context, Result, anyhow, ensure};
use minisign_verify::{Error, PublicKey, Signature, StreamVerifier};
use store::{AppName, Version};

/// A signature that says the right thing, and the key that it says it is by. Whether it is, is known at the end.
pub(crate) struct Signed {
    key: PublicKey,
    signature: Signature,
}

impl Signed {
    /// # Errors
    /// When it can be seen before the artifact is there that it is not by one of `keys`, or not of this app and version.
    pub(crate) fn read(text: &[u8], keys: Vec<PublicKey>, app: &AppName, version: &Version) -> Result<Self> {
        let text = str::from_utf8(text).context("it is no signature of minisign")?;
        let signature = Signature::decode(text).context("it is no signature of minisign")?;
        // The comment is signed, too, which is looked at together with the artifact.
        let comment = signature.trusted_comment();
        for (name, expected) in [("app:", app.as_str()), ("version:", version.as_str())] {
            let found = comment.split_whitespace().filter_map(|word| word.strip_prefix(name)).collect::<Vec<_>>();
            ensure!(
                found == [expected],
                "it is of something else: its trusted comment is {comment:?}, without {name}{expected} alone"
            );
        }
        let key = keys.into_iter().find(|key| !matches!(key.verify_stream(&signature), Err(Error::UnexpectedKeyId)));
        let signed = Self { key: key.context("it is by a key that is not trusted here")?, signature };
        signed.verifier()?;
        Ok(signed)
    }

    pub(super) fn verifier(&self) -> Result<StreamVerifier<'_>> {
        self.key.verify_stream(&self.signature).map_err(|error| match error {
            Error::UnsupportedLegacyMode => {
                anyhow!("it is of minisign's old kind: sign it with a newer one, without -l")
            }
            error => error.into(),
        })
    }
}
