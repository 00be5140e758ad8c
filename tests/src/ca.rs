//! A private certificate authority that vouches for the host names of the laboratory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Host names of AI providers that the laboratory plays.
pub const AI_HOSTS: &[&str] = &["api.openai.com", "api.anthropic.com", "api.mistral.ai", "api.deepseek.com"];

/// Host names of AI providers whose part programs of their own play, behind our TLS.
pub const FRONTED_HOSTS: &[&str] =
    &["generativelanguage.googleapis.com", "us-central1-aiplatform.googleapis.com"];

/// Host names that have nothing to do with AI.
pub const OTHER_HOSTS: &[&str] = &["www.example.org", "intranet.example.org"];

/// The authority's certificate on disk and a server configuration with a leaf for every host.
pub struct Authority {
    /// PEM file for `SSL_CERT_FILE`, `NODE_EXTRA_CA_CERTS` and `curl --cacert`.
    pub pem: PathBuf,
    key: PrivatePkcs8KeyDer<'static>,
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
}

impl Authority {
    /// Makes an authority and writes its certificate below `dir`.
    pub fn new(dir: &Path) -> anyhow::Result<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Venturi laboratory CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let names = [AI_HOSTS, FRONTED_HOSTS, OTHER_HOSTS].concat();
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name.push(DnType::CommonName, "Venturi laboratory");
        let key = KeyPair::generate()?;
        let cert = leaf.signed_by(&key, &issuer)?;

        let pem = dir.join("ca.pem");
        std::fs::write(&pem, issuer.pem()).with_context(|| format!("writing {}", pem.display()))?;
        Ok(Authority {
            pem,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            chain: vec![cert.der().clone()],
        })
    }

    /// A TLS server configuration that offers `alpn`, best first.
    pub fn server_config(&self, alpn: &[&str]) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), PrivateKeyDer::Pkcs8(self.key.clone_key()))?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}
