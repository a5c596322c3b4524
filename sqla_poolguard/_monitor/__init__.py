"""What `sqla_poolguard.monitor` is made of. It looks at pools and at their server from outside, and checks nothing out."""
