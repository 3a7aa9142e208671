"""Sequential drift detectors: River's, folded over closed panes or over single events."""
