//! TLS between gateways, where the network between them is not the operator's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::BoxedIo;
use crate::followed::Followed;
use crate::tls::{Certificate, TlsError};

/// This gateway's certificate, and the authority of all the others'. Who a gateway is, its badge says; what TLS adds is
/// that nobody between reads along.
#[derive(Clone)]
pub struct PeerTls {
    certificate: Arc<Certificate>,
    acceptor: TlsAcceptor,
    authority: Arc<Authority>,
}

/// Who vouches for the others' certificates, as the file said that was looked at last.
struct Authority {
    file: PathBuf,
    first: Vec<u8>,
    current: ArcSwap<ClientConfig>,
}

impl PeerTls {
    /// From PEM files: a certificate (with what links it to the authority), its key, and the authority's certificate.
    pub fn read(certificate: &Path, key: &Path, authority: &Path) -> Result<Self, TlsError> {
        let certificate = Certificate::read(certificate, key)?;
        let authority = Arc::new(Authority::read(authority)?);
        let acceptor = certificate.acceptor(&[b"h2"]);
        Ok(Self { certificate, acceptor, authority })
    }

    /// Takes up what changes in the files, for as long as it is polled. What is connected stays connected.
    pub async fn follow(self) {
        tokio::join!(self.certificate.follow(), self.authority.follow());
    }

    /// This end of a connection to `address` (`host:port`), whose certificate must be for that host.
    pub(super) async fn connect(&self, address: &str, socket: TcpStream) -> std::io::Result<BoxedIo> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let connector = TlsConnector::from(self.authority.current.load_full());
        Ok(Box::new(connector.connect(name, socket).await?))
    }

    /// This end of a connection that came in.
    pub(super) async fn accept(&self, socket: TcpStream) -> std::io::Result<BoxedIo> {
        Ok(Box::new(self.acceptor.accept(socket).await?))
    }
}

impl Authority {
    fn read(file: &Path) -> Result<Self, TlsError> {
        let held = std::fs::read(file).map_err(|error| TlsError::Unreadable(file.display().to_string(), error))?;
        let current = ArcSwap::from_pointee(trusting(file, &held)?);
        Ok(Self { file: file.to_owned(), first: held, current })
    }

    async fn follow(self: Arc<Self>) {
        let followed = Followed::since(vec![self.file.clone()], vec![self.first.clone()]);
        let take_up = |held: Vec<Vec<u8>>| {
            let trusting = trusting(&self.file, held.first().map_or(&[], Vec::as_slice));
            let taken = trusting.map(|config| self.current.store(Arc::new(config)));
            std::future::ready(taken)
        };
        followed.follow("the other gateways' authority", take_up).await;
    }
}

/// The asking end of TLS that trusts what is in this file, which may be several authorities, as while they are exchanged.
fn trusting(file: &Path, held: &[u8]) -> Result<ClientConfig, TlsError> {
    let at = |error| TlsError::File(file.display().to_string(), error);
    let mut roots = RootCertStore::empty();
    for trusted in CertificateDer::pem_slice_iter(held) {
        roots.add(trusted.map_err(at)?)?;
    }
    if roots.is_empty() {
        return Err(at(PemError::NoItemsFound));
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
