"""Your own networks. A variant names one by ``classifier: {module: own_networks.file:function}``."""
