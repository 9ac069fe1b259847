//! TLS between gateways, where the network between them is not the operator's own.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::BoxedIo;
use crate::tls::{Certificate, TlsError};

/// This gateway's certificate, and the authority of all the others'. Who a gateway is, its badge says; what TLS adds is
/// that nobody between reads along.
#[derive(Clone)]
pub struct PeerTls {
    certificate: Arc<Certificate>,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl PeerTls {
    /// From PEM files: a certificate (with what links it to the authority), its key, and the authority's certificate.
    pub fn read(certificate: &Path, key: &Path, authority: &Path) -> Result<Self, TlsError> {
        let certificate = Certificate::read(certificate, key)?;
        let at = |error| TlsError::File(authority.display().to_string(), error);
        let mut roots = RootCertStore::empty();
        for trusted in CertificateDer::pem_file_iter(authority).map_err(at)? {
            roots.add(trusted.map_err(at)?)?;
        }
        let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = certificate.acceptor(&[b"h2"]);
        Ok(Self { certificate, acceptor, connector: Arc::new(client).into() })
    }

    /// The certificate, to be followed when its files change.
    pub fn certificate(&self) -> Arc<Certificate> {
        self.certificate.clone()
    }

    /// This end of a connection to `address` (`host:port`), whose certificate must be for that host.
    pub(super) async fn connect(&self, address: &str, socket: TcpStream) -> std::io::Result<BoxedIo> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(self.connector.connect(name, socket).await?))
    }

    /// This end of a connection that came in.
    pub(super) async fn accept(&self, socket: TcpStream) -> std::io::Result<BoxedIo> {
        Ok(Box::new(self.acceptor.accept(socket).await?))
    }
}
