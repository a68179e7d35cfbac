//! Real servers, clusters and judges for the tests of Modelship.
