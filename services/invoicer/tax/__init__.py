"""GST of India: registration numbers, states, rates, the split into heads, amounts in words. Pure.

Law and its sources: the CGST and IGST Acts and the CGST Rules of 2017, named beside each rule.
"""
