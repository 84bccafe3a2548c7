"""Who did what: appended in the transaction of what it records. (The hash chain comes with access.)"""
