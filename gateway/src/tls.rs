//! This gateway's certificates, from PEM files that are read again when they change: what is connected stays connected, what
//! connects next sees the new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{info, warn};

/// How often the files are looked at. Whoever renews a certificate need tell nobody.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Cannot be read.
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
    /// No PEM, or not what is expected in it.
    #[error("{0}: {1}")]
    File(String, rustls::pki_types::pem::Error),
    /// Not what TLS needs: the key is not the certificate's, say.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// A certificate with what links it to its authority, and its key, as they are in these files now.
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    first: Files,
    current: ArcSwap<CertifiedKey>,
}

/// What the two files held when they were looked at.
#[derive(PartialEq)]
struct Files {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads the files.
    pub fn read(chain: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let files = |path: &Path| std::fs::read(path).map_err(|e| TlsError::Unreadable(path.display().to_string(), e));
        let held = Files { chain: files(chain)?, key: files(key)? };
        let current = ArcSwap::from_pointee(held.parse(chain, key)?);
        Ok(Arc::new(Self { chain: chain.to_owned(), key: key.to_owned(), first: held, current }))
    }

    /// The serving end of TLS with this certificate, for these protocols, the preferred one first.
    pub fn acceptor(self: &Arc<Self>, protocols: &[&[u8]]) -> TlsAcceptor {
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config).into()
    }

    /// Takes up what changes in the files, for as long as it is polled. What cannot be used (half written, the key of
    /// another certificate) changes nothing; it is told once.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = None;
        loop {
            if let Ok(files) = self.look().await
                && files != *seen.as_ref().unwrap_or(&self.first)
            {
                self.take_up(&files);
                seen = Some(files);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> std::io::Result<Files> {
        Ok(Files { chain: tokio::fs::read(&self.chain).await?, key: tokio::fs::read(&self.key).await? })
    }

    fn take_up(&self, files: &Files) {
        let certificate = self.chain.display();
        match files.parse(&self.chain, &self.key) {
            Ok(new) => {
                self.current.store(Arc::new(new));
                info!(%certificate, "the certificate has changed: new connections get the new one");
            }
            Err(error) => {
                warn!(%certificate, %error, "the certificate has changed and cannot be used: the old one stays")
            }
        }
    }
}

impl Files {
    fn parse(&self, chain: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
        let at = |path: &Path, error| TlsError::File(path.display().to_string(), error);
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.chain).collect();
        let certificates = certificates.map_err(|error| at(chain, error))?;
        if certificates.is_empty() {
            return Err(at(chain, rustls::pki_types::pem::Error::NoItemsFound));
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| at(key, error))?;
        Ok(CertifiedKey::from_der(certificates, private, &rustls::crypto::ring::default_provider())?)
    }
}

/// Without what the files hold.
impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.chain.display())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// The asking end of TLS with whoever answers, for a question whose answer needs no trust: how is the gateway on this machine?
/// Its certificate is for another name, and a new one may be in the file already.
pub fn to_anyone() -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anyone = Arc::new(Anyone(provider.signature_verification_algorithms));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
    Ok(Arc::new(config).into())
}

#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
